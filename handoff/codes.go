package handoff

import "fmt"

// Code is why the sidecar refuses, denies or ends something; PROTOCOL.md has the table.
type Code uint64

// The codes.
const (
	CodeBadFrame Code = iota + 1
	CodeBadMagic
	CodeBadVersion
	CodeBadPayload
	CodeHelloTwice
	CodeHelloLate
	CodeTooLong
	CodeNoDescriptor
	CodeStrayDescriptor
	CodeBadDescriptor
	CodeNotYours
	CodeAtLimit
	CodeTooSlow
	CodeNotAllowed
	CodeStopping
	CodeOutOfDescriptors
	CodeNotAgreed
	CodeNotAnswering
)

var codeNames = [...]string{
	CodeBadFrame: "BAD_FRAME", CodeBadMagic: "BAD_MAGIC", CodeBadVersion: "BAD_VERSION", CodeBadPayload: "BAD_PAYLOAD",
	CodeHelloTwice: "HELLO_TWICE", CodeHelloLate: "HELLO_LATE", CodeTooLong: "TOO_LONG", CodeNoDescriptor: "NO_DESCRIPTOR",
	CodeStrayDescriptor: "STRAY_DESCRIPTOR", CodeBadDescriptor: "BAD_DESCRIPTOR", CodeNotYours: "NOT_YOURS", CodeAtLimit: "AT_LIMIT",
	CodeTooSlow: "TOO_SLOW", CodeNotAllowed: "NOT_ALLOWED", CodeStopping: "STOPPING", CodeOutOfDescriptors: "OUT_OF_DESCRIPTORS",
	CodeNotAgreed: "NOT_AGREED", CodeNotAnswering: "NOT_ANSWERING",
}

func (c Code) String() string {
	if c > 0 && int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("code %d", uint64(c))
}

// Fault is what a peer did wrong, or why it cannot have what it asked for: the code and the sentence of a REFUSE, ERROR or DENIED frame.
type Fault struct {
	Code   Code
	Reason string // one sentence, for the log and for the peer's author
}

func (f *Fault) Error() string { return f.Code.String() + ": " + f.Reason }

// Faultf makes a Fault with a formatted reason.
func Faultf(c Code, format string, args ...any) *Fault {
	return &Fault{Code: c, Reason: fmt.Sprintf(format, args...)}
}

// Frame encodes the fault as a frame of type t (TypeRefuse, TypeError or TypeDenied); seq is the tag of what was denied, else 0.
func (f *Fault) Frame(t Type, seq uint32) Frame {
	return Frame{Type: t, Seq: seq, A: uint64(f.Code), Payload: []byte(cut(f.Reason, maxReason))}
}

// maxReason is how much of a reason is sent, in bytes.
const maxReason = 512

// FaultOf reads a REFUSE, ERROR or DENIED frame.
func FaultOf(f *Frame) *Fault { return &Fault{Code: Code(f.A), Reason: string(f.Payload)} }

// Why a host ends a connection: field a of CLOSE.
const (
	CloseDone     uint64 = 0
	CloseClient   uint64 = 1
	CloseTooSlow  uint64 = 2
	CloseApp      uint64 = 3
	CloseOverload uint64 = 4
)

// Why a host cannot take a lease: field a of NACK.
const (
	NackNoDescriptor uint64 = 1
	NackUnknown      uint64 = 2
	NackOverload     uint64 = 3
)

// Why a connection is no longer the host's: field a of FORGET.
const (
	ForgetMoved    uint64 = 1
	ForgetExpired  uint64 = 2
	ForgetHungUp   uint64 = 3
	ForgetEvicted  uint64 = 4
	ForgetOperator uint64 = 5
	ForgetStopped  uint64 = 6
	ForgetFailed   uint64 = 7
)
