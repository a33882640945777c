// Command standin is a small program for the tests of the images.
package main

var version = "dev"

func main() { println(version) }
