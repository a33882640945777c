//go:build !linux

package scanner

func isOpaque(string) bool { return false }
func seesOpaque() bool     { return false }
