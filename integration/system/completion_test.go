package system

import (
	"strings"
	"testing"
)

// bashTry completes lines as bash does: it splits words at "=" and ":".
const bashTry = `. /usr/share/bash-completion/completions/plyfs
try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _plyfs plyfs; printf '%s\n' "${COMPREPLY[@]}"; }
`

// zshTry types lines, each with the tab key, at an interactive zsh, and prints
// what each is then.
const zshTry = `zmodload zsh/zpty
TERM=dumb zpty z zsh -f -i
zpty -w z 'autoload -Uz compinit; compinit -u -D; PS1=; unsetopt zle_bracketed_paste; setopt menu_complete
show() { zle complete-word; print -r -- "<<$BUFFER>>"; zle kill-whole-line; }; zle -N show; bindkey "^I" show; print rea""dy'
zpty -r -m z line '*ready*'
while read -r typed; do
	zpty -n -w z "$typed"$'\t'
	zpty -r -m z line '*<<*>>*'
	line=${line##*<<}
	print -r -- "${line%%>>*}"
done </tmp/lines
zpty -d z
`

// The shells complete commands, flags, options, files and mountpoints.
func TestCompletions(t *testing.T) {
	m := installed(t)
	m.volume()
	m.run("mkdir -p /srv/here && mount -t plyfs /srv/v /mnt/v")
	defer m.run("umount /mnt/v")
	tests := []struct {
		name, line, want string // the line's last word completes to want
	}{
		{"a command", "plyfs umo", "umount"},
		{"a word of a command", "plyfs keystore in", "init"},
		{"a flag", "plyfs mount --fore", "--foreground"},
		{"the last option of a list", "plyfs mount -o ro,keys", "ro,keystore="},
		{"a flag's file", "plyfs mount --data-keystore /etc/fsta", "/etc/fstab"},
		{"a ciphertext directory", "plyfs info /srv/her", "/srv/here"},
		{"a mountpoint that is mounted", "plyfs umount /mn", "/mnt/v"},
		{"a topic of help", "plyfs help exit", "exit-codes"},
	}
	var lines, bash, fish strings.Builder
	bash.WriteString(bashTry)
	for _, tt := range tests {
		lines.WriteString(tt.line + "\n")
		bash.WriteString("try '" + strings.Join(strings.Fields(tt.line), "' '") + "'\n")
		fish.WriteString("complete -C '" + tt.line + "'\necho :\n")
	}
	// Where a word has an "=", bash's reply is what follows it.
	bash.WriteString("try plyfs mount --data-keystore = /etc/fsta\n")
	m.write("/tmp/lines", lines.String(), 0o644)
	m.write("/tmp/try.bash", bash.String(), 0o644)
	m.write("/tmp/try.fish", fish.String(), 0o644)
	m.write("/tmp/try.zsh", zshTry, 0o644)
	inBash := strings.Split(m.run("bash /tmp/try.bash 2>&1"), "\n")
	inFish := strings.Split(m.run("fish --private /tmp/try.fish 2>/dev/null"), ":\n")
	inZsh := strings.Split(m.run("zsh -f /tmp/try.zsh"), "\n")
	if len(inBash) <= len(tests)+1 || len(inZsh) <= len(tests) || len(inFish) <= len(tests) {
		t.Fatalf("answers of bash %q, of fish %q, of zsh %q", inBash, inFish, inZsh)
	}
	for i, tt := range tests {
		if got := inBash[i]; got != tt.want {
			t.Errorf("%s in bash: %q gives %q, want %q", tt.name, tt.line, got, tt.want)
		}
		if got := strings.TrimRight(firstWord(inFish[i]), "/"); got != tt.want {
			t.Errorf("%s in fish: %q gives %q, want %q", tt.name, tt.line, got, tt.want)
		}
		whole := tt.line[:strings.LastIndexByte(tt.line, ' ')+1] + tt.want
		if got := strings.TrimRight(inZsh[i], " /\r"); got != whole {
			t.Errorf("%s in zsh: %q gives %q, want %q", tt.name, tt.line, got, whole)
		}
	}
	if got := inBash[len(tests)]; got != "/etc/fstab" {
		t.Errorf("a value behind = in bash: %q", got)
	}
}

// firstWord is what stands before the explanation.
func firstWord(answer string) string {
	line, _, _ := strings.Cut(answer, "\n")
	word, _, _ := strings.Cut(line, "\t")
	return word
}
