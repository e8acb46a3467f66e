package handoff

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Sizes and limits of the protocol.
const (
	Version     = 1       // the version spoken here
	HeaderSize  = 32      // bytes of a frame without its payload
	MaxPayload  = 8192    // bytes of payload a frame may carry
	MaxConn     = 1 << 53 // connection ids are below this (exact in a float64, for hosts in JavaScript and Lua)
	MaxCapacity = 4096    // leases a host may hold at once
)

// Type says what a frame means.
type Type uint8

// Frames from host to sidecar.
const (
	TypeHello    Type = 0x01
	TypePut      Type = 0x02
	TypeClose    Type = 0x03
	TypeDetach   Type = 0x04
	TypeNack     Type = 0x05
	TypeAdopt    Type = 0x06
	TypeListen   Type = 0x07
	TypeUnlisten Type = 0x08
	TypeFinish   Type = 0x09
	TypeCapacity Type = 0x0a
	TypeDropped  Type = 0x0b
	TypeDrain    Type = 0x0c // DRAINING, said by the host
	TypePong     Type = 0x0d
)

// Frames from sidecar to host.
const (
	TypeWelcome    Type = 0x21
	TypeRefuse     Type = 0x22
	TypeLease      Type = 0x23
	TypeForget     Type = 0x24
	TypeAdopted    Type = 0x25
	TypeListening  Type = 0x26
	TypeUnlistened Type = 0x27
	TypeDraining   Type = 0x28 // DRAINING, said by the sidecar
	TypePing       Type = 0x29
	TypeError      Type = 0x2a
	TypeDenied     Type = 0x2b
)

var typeNames = map[Type]string{
	TypeHello: "HELLO", TypePut: "PUT", TypeClose: "CLOSE", TypeDetach: "DETACH", TypeNack: "NACK", TypeAdopt: "ADOPT",
	TypeListen: "LISTEN", TypeUnlisten: "UNLISTEN", TypeFinish: "FINISH", TypeCapacity: "CAPACITY", TypeDropped: "DROPPED",
	TypeDrain: "DRAINING", TypePong: "PONG",
	TypeWelcome: "WELCOME", TypeRefuse: "REFUSE", TypeLease: "LEASE", TypeForget: "FORGET", TypeAdopted: "ADOPTED",
	TypeListening: "LISTENING", TypeUnlistened: "UNLISTENED", TypeDraining: "DRAINING", TypePing: "PING", TypeError: "ERROR",
	TypeDenied: "DENIED",
}

func (t Type) String() string {
	if s, ok := typeNames[t]; ok {
		return s
	}
	return fmt.Sprintf("type 0x%02x", uint8(t))
}

// Known reports whether this version defines the type, in either direction.
func (t Type) Known() bool { return typeNames[t] != "" }

// Ignorable reports whether a receiver that does not know the type skips it; the others are errors.
func (t Type) Ignorable() bool { return t < 0x80 }

// Flags qualify a frame.
type Flags uint8

// The flags; which frames they belong to is in PROTOCOL.md.
const (
	FlagFD     Flags = 1 << 0
	FlagFresh  Flags = 1 << 1
	FlagLast   Flags = 1 << 2
	FlagSilent Flags = 1 << 3
	FlagSticky Flags = 1 << 4
	FlagClose  Flags = 1 << 5
)

// Frame is one message of the protocol, without the descriptor that may come with it.
type Frame struct {
	Type    Type
	Flags   Flags
	Seq     uint32
	Conn    uint64
	A, B    uint64
	Payload []byte // at most MaxPayload bytes; after decoding it aliases the decoder's input
}

// Errors of Decode. Both are final for a stream: where the next frame begins is unknown.
var (
	ErrTooLong  = fmt.Errorf("handoff: payload longer than %d bytes", MaxPayload)
	ErrBadFrame = errors.New("handoff: frame of an unknown type that may not be ignored")
)

// Append encodes the frame at the end of b and returns the longer slice. It panics if the payload is longer than MaxPayload, which is
// the caller's mistake, never a peer's.
func (f *Frame) Append(b []byte) []byte {
	if len(f.Payload) > MaxPayload {
		panic(ErrTooLong)
	}
	b = append(b, byte(f.Type), byte(f.Flags))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(f.Payload)))
	b = binary.LittleEndian.AppendUint32(b, f.Seq)
	b = binary.LittleEndian.AppendUint64(b, f.Conn)
	b = binary.LittleEndian.AppendUint64(b, f.A)
	b = binary.LittleEndian.AppendUint64(b, f.B)
	return append(b, f.Payload...)
}

// Decode reads the first frame of b. It returns the bytes it took, 0 if b does not yet hold the whole frame. The length is judged as
// soon as the header is there, so that a peer cannot make the receiver wait for a payload it would refuse.
func Decode(b []byte, f *Frame) (n int, err error) {
	if len(b) < HeaderSize {
		return 0, nil
	}
	length := int(binary.LittleEndian.Uint16(b[2:]))
	switch t := Type(b[0]); {
	case !t.Known() && !t.Ignorable():
		return 0, fmt.Errorf("%w: 0x%02x", ErrBadFrame, b[0])
	case length > MaxPayload:
		return 0, fmt.Errorf("%w: %s announces %d", ErrTooLong, t, length)
	case len(b) < HeaderSize+length:
		return 0, nil
	}
	f.Type, f.Flags = Type(b[0]), Flags(b[1])
	f.Seq = binary.LittleEndian.Uint32(b[4:])
	f.Conn = binary.LittleEndian.Uint64(b[8:])
	f.A = binary.LittleEndian.Uint64(b[16:])
	f.B = binary.LittleEndian.Uint64(b[24:])
	f.Payload = b[HeaderSize : HeaderSize+length]
	return HeaderSize + length, nil
}
