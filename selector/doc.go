// Package selector tells which registered descriptors are ready.
//
// # Contract
//
// A descriptor is registered once, with a token of the caller's choice and an Interest; from then on Select reports the token with
// what the descriptor is Ready for. The selector owns no registered descriptor: it neither closes one nor changes its flags.
//
//   - Registration is level-triggered: Select reports a descriptor for as long as it is ready. OneShot reports it once and then disarms
//     it until Modify; an event that is pending at that moment is reported at once. EdgeTriggered reports it once per change.
//   - Hang-up of the peer's writing side, full hang-up and errors are reported whatever the interest, also with an interest of zero. A
//     OneShot that has fired is silent about these too.
//   - Unregister before close, always. A descriptor is only a name for an open file description, and the kernel watches the description:
//     while a duplicate lives, in this process or in another, a closed descriptor goes on being reported and can no longer be removed.
//   - An event may name a registration that has since been changed or removed, by another goroutine or earlier in the same batch. The
//     token is the one under which the kernel saw the event; put a generation into it and compare before acting.
//
// Every method may be called from any goroutine, Select by one at a time. Calls that concern the same descriptor are the caller's to order:
// the last one wins, in the order in which the kernel saw them. Modify and Wake neither lock, block nor allocate.
//
// # Limits
//
// A registered descriptor costs a bit here, by its number: numbers are handed out lowest first, so the table is as long as the most descriptors
// ever open. Its token is kept by the kernel alone. One call of Select reports at most MaxBatch events; the rest are reported by the next. Tokens go up to MaxToken.
//
// # Other kernels
//
// The contract of a backend is the interface backend; each lives in one file named after its mechanism, as epoll_linux.go does.
// A system without one compiles, and New fails there with errors.ErrUnsupported.
package selector
