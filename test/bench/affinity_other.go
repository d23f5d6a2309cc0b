//go:build !linux

package main

// runOn does nothing here: figures vary more.
func runOn(int, int) error { return nil }
