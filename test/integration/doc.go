// Package integration drives deploy/compose as its users do: clients come over the published port, operators come with grpcurl in a container
// of its own, and the application's containers are killed and restarted under them. It is all tests; "make integration" builds the images
// and runs it (build tag integration).
//
// Every test brings up a Compose project of its own and takes it down again, with its volume and its network.
package integration
