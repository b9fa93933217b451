package gossip

import (
	"log"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// newLogger returns a logger for memberlist that writes to out. A peer can make memberlist complain
// about every packet, so only so many lines a second pass.
func newLogger(out zerolog.Logger) *log.Logger {
	return log.New(lineWriter{out.Sample(&zerolog.BurstSampler{Burst: 20, Period: time.Second})}, "", 0)
}

// A lineWriter takes lines such as "[WARN] memberlist: text".
type lineWriter struct{ out zerolog.Logger }

func (w lineWriter) Write(line []byte) (int, error) {
	level, text := parseLine(string(line))
	w.out.WithLevel(level).Str("from", "memberlist").Msg(text)
	return len(line), nil
}

func parseLine(line string) (zerolog.Level, string) {
	line = strings.TrimSpace(line)
	level := zerolog.InfoLevel
	if tag, rest, ok := strings.Cut(line, "] "); ok && strings.HasPrefix(tag, "[") {
		switch line = rest; tag {
		case "[DEBUG":
			level = zerolog.DebugLevel
		case "[WARN":
			level = zerolog.WarnLevel
		case "[ERR", "[ERROR":
			level = zerolog.ErrorLevel
		}
	}
	line = strings.TrimPrefix(line, "memberlist: ")
	// Our own hook refuses, and says so once, what memberlist reports each time it hears of it.
	if strings.HasPrefix(line, "ignoring alive message for") {
		level = zerolog.DebugLevel
	}
	return level, line
}
