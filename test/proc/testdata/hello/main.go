// Command hello is something to build.
package main

func main() { println("hello") }
