package main

import (
	"bufio"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
)

// A machine says where it was measured; it names no host.
type machine struct {
	CPU      string            `json:"cpu"`
	Cores    int               `json:"cores"`
	MemoryGB float64           `json:"memory_gb"`
	Kernel   string            `json:"kernel"`
	Load     string            `json:"load"` // of one minute, before the run
	Versions map[string]string `json:"versions"`
}

func thisMachine() machine {
	m := machine{
		CPU: cpuModel(), Cores: runtime.NumCPU(), Kernel: firstLine(readFile("/proc/sys/kernel/osrelease")),
		Versions: map[string]string{
			"Go":        strings.TrimPrefix(runtime.Version(), "go"),
			"UCX":       version("ucx_info", "-v"),
			"redis":     version("redis-server", "--version"),
			"memcached": version("memcached", "-V"),
			"Olric":     olricVersion,
		},
	}
	m.Load, _, _ = strings.Cut(readFile("/proc/loadavg"), " ")
	m.MemoryGB = memoryGB(readFile("/proc/meminfo"))
	return m
}

// busy reports whether others used a good part of a core of late.
func busy(m machine) bool {
	load, err := strconv.ParseFloat(m.Load, 64)
	return err == nil && load > 0.3
}

// readFile returns "" for what cannot be read: it is only shown.
func readFile(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return string(b)
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimSpace(line)
}

func cpuModel() string {
	lines := bufio.NewScanner(strings.NewReader(readFile("/proc/cpuinfo")))
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

var memTotal = regexp.MustCompile(`MemTotal:\s+(\d+) kB`)

func memoryGB(meminfo string) float64 {
	m := memTotal.FindStringSubmatch(meminfo)
	if m == nil {
		return 0
	}
	kb := 0.0
	for _, digit := range m[1] {
		kb = 10*kb + float64(digit-'0')
	}
	return kb * 1024 / 1e9
}

var versionNumber = regexp.MustCompile(`\d+\.\d+(\.\d+)?`)

// version asks a program for its version.
func version(program string, args ...string) string {
	out, err := exec.Command(program, args...).Output()
	if err != nil {
		return "?"
	}
	return versionNumber.FindString(string(out))
}
