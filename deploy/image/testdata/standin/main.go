// Command standin is a small program for the tests of the images.
package main

var release = "dev"

func main() { println(release) }
