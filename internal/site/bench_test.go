package site

import "testing"

func BenchmarkLoad(b *testing.B) {
	src := example(b, true)
	for b.Loop() {
		if s, _ := Load(src); s == nil {
			b.Fatal("refused")
		}
	}
}

func BenchmarkHostSpecs(b *testing.B) {
	s := load(b, example(b, true))
	for b.Loop() {
		if _, err := s.HostSpecs(Resources{}); err != nil {
			b.Fatal(err)
		}
	}
}
