package main

import (
	"fmt"
	"net"
	"strings"
)

// notifier tells a service manager how a foreground mount gets on, as
// sd_notify(3) does. The zero value tells nobody.
type notifier struct{ socket string }

// notifier returns the one that the environment names.
func (c *console) notifier() notifier { return notifier{c.getenv("NOTIFY_SOCKET")} }

// tell sends assignments, such as READY=1, in one message.
func (n notifier) tell(assignments ...string) error {
	if n.socket == "" {
		return nil
	}
	c, err := net.Dial("unixgram", n.socket) // "@" begins an abstract name
	if err == nil {
		_, err = c.Write([]byte(strings.Join(assignments, "\n")))
		c.Close()
	}
	if err != nil {
		return fmt.Errorf("the service manager does not hear ($NOTIFY_SOCKET): %w", err)
	}
	return nil
}

// foreground is the host of a mount that stays in the foreground.
func (c *console) foreground(r *request) host {
	n := c.notifier()
	tell := func(assignments ...string) {
		if err := n.tell(assignments...); err != nil {
			c.warn("%v", err)
		}
	}
	return host{
		note: func(text string) {
			c.note("%s", text)
			tell("STATUS=" + oneLine(text))
		},
		ready: func() {
			enterTable(r.Source, r.Target)
			tell("READY=1", "STATUS=serving "+oneLine(r.Source))
		},
		stopping: func() { tell("STOPPING=1", "STATUS=closing the volume") },
	}
}

// oneLine keeps text from saying more than one thing to a service manager.
func oneLine(text string) string { return strings.ReplaceAll(text, "\n", " ") }
