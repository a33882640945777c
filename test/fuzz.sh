#!/bin/sh
# Fuzzes each fuzz test of the module for the time given, one after another.
set -eu
time=${1:-10s}
ran=0
for file in $(git ls-files '*_test.go' | xargs grep -l '^func Fuzz' | sort); do
	dir=./$(dirname "$file")
	for name in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' "$file"); do
		echo "fuzz $dir $name"
		go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime 10x "$dir"
		ran=$((ran + 1))
	done
done
echo "$ran fuzz tests ran"
test "$ran" -gt 0
