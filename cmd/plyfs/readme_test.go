package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/plyfs/plyfs/cmd/internal/mountopt"
)

// What the README links to is there, and the commands, flags and options that
// it names exist.
func TestReadme(t *testing.T) {
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, m := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(text, -1) {
		if name, isHeading := strings.CutPrefix(m[1], "#"); isHeading {
			if !slices.Contains(headings(text), name) {
				t.Errorf("no heading %s", m[1])
			}
		} else if _, err := os.Stat("../../" + m[1]); err != nil {
			t.Errorf("link: %v", err)
		}
	}
	app := newApp(newConsole())
	var lines []string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1) {
		lines = append(lines, strings.Split(block[1], "\n")...)
	}
	for _, code := range regexp.MustCompile("`(plyfs [^`]*)`").FindAllStringSubmatch(text, -1) {
		lines = append(lines, code[1])
	}
	for _, line := range lines {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "plyfs" || strings.HasSuffix(words[1], ":") {
			continue // another program's, or what plyfs says
		}
		if _, err := normalise(words[1:], app); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
	for _, m := range regexp.MustCompile("`([a-z-]+)=").FindAllStringSubmatch(text, -1) {
		if !slices.Contains(mountopt.Names(), m[1]) {
			t.Errorf("no option %s", m[1])
		}
	}
}

// headings are the anchors of a Markdown text.
func headings(text string) []string {
	var anchors []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		clean := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(m[1]), "")
		anchors = append(anchors, strings.ReplaceAll(clean, " ", "-"))
	}
	return anchors
}
