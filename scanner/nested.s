// An assembly file, even an empty one, lets nested.go declare functions that are linked by name.
