// Package tsgrpc is the face that speaks TensorStore's own gRPC protocol, the one of its driver tsgrpc_kvstore:
// read, write, delete and list with generations.
//
// It translates; that a conditional write or delete is decided atomically by the owner of its key is the store's
// business. A generation of the protocol is that of the store, so it never repeats. Long values go from the
// store's memory to gRPC's transport without a copy, and come in with one.
package tsgrpc
