// Package kvstorepb holds the messages of TensorStore's gRPC key value store, and a client for it. All but this
// file is made of the .proto files by "make proto".
package kvstorepb
