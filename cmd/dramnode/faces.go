package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/config"
	"github.com/dramnode/dramnode/gateway"
	"github.com/dramnode/dramnode/gateway/resp"
	"github.com/dramnode/dramnode/gateway/tsgrpc"
)

// faceSettings say which other protocols a node serves. An address "" turns a face off.
type faceSettings struct {
	resp             string
	respPasswordFile string
	tsgrpc           string
	tsgrpcClockSkew  time.Duration
	objectSettings
}

func (s *faceSettings) faceFlags(f *pflag.FlagSet) {
	f.StringVar(&s.resp, "resp", "", "serve Redis clients on this `IP:port` (default: off)")
	f.StringVar(&s.respPasswordFile, "resp-password-file", "", "`file` with the password that Redis clients must give")
	f.StringVar(&s.tsgrpc, "tsgrpc", "", "serve TensorStore's driver tsgrpc_kvstore on this `IP:port`, or unix:/path (default: off)")
	f.DurationVar(&s.tsgrpcClockSkew, "tsgrpc-clock-skew", 0, "how far the clock of this node may be ahead of TensorStore's")
	s.objectFlags(f)
}

// A face is one protocol that was asked for. Each life of the node makes it anew.
type face struct {
	name, addr string
	open       func() (gateway.Serve, error)
	objects    bool // it puts objects together; others must not see what they are made of
}

// faces are those that were asked for.
func (s *serveSettings) faces() ([]face, error) {
	var list []face
	password, err := config.ReadPassword(s.respPasswordFile)
	if s.resp != "" {
		list = append(list, face{name: "resp", addr: s.resp, open: func() (gateway.Serve, error) {
			server, err := resp.New(resp.Config{Password: password, Version: version})
			if err != nil {
				return nil, err
			}
			return server.Serve, nil
		}})
	}
	tensors, tensorsErr := s.tensorFace()
	objects, objectsErr := s.objectFaces()
	return append(append(list, tensors...), objects...), errors.Join(err, tensorsErr, objectsErr)
}

func (s *serveSettings) tensorFace() ([]face, error) {
	if s.tsgrpc == "" {
		return nil, nil
	}
	log, err := s.logger(os.Stderr, terminal(os.Stderr))
	if err != nil {
		return nil, err
	}
	cfg := tsgrpc.Config{ClockSkew: s.tsgrpcClockSkew, Log: log}
	return []face{{name: "tsgrpc", addr: s.tsgrpc, open: func() (gateway.Serve, error) { return tsgrpc.Serve(cfg), nil }}}, cfg.Check()
}

// checkFaces reports addresses that cannot be, and faces that would let anybody in.
func (s *serveSettings) checkFaces() error {
	var faults []error
	for _, f := range []struct {
		flag, addr, guard string
		guarded           bool
	}{
		{"resp", s.resp, "--resp-password-file", s.respPasswordFile != ""},
		{"tsgrpc", s.tsgrpc, "unix:/path", false}, // its protocol has no word for who one is
		{"s3", s.s3, "--s3-key-file", len(s.s3Keys) > 0 || s.s3KeyFile != ""},
		{"gcs", s.gcs, "--gcs-token-file", len(s.gcsTokens) > 0 || s.gcsTokenFile != ""},
	} {
		if f.addr == "" {
			continue
		}
		if isSocket(f.addr) && f.flag == "tsgrpc" {
			continue
		}
		if err := config.CheckListen(f.flag, f.addr); err != nil {
			faults = append(faults, err)
		} else if !f.guarded && !s.insecure && !config.Loopback(f.addr) {
			faults = append(faults, fmt.Errorf("%w: --%s %s is beyond loopback and lets anybody in: give %s, or --insecure", dramnode.ErrInvalid, f.flag, f.addr, f.guard))
		}
	}
	return errors.Join(faults...)
}

// listen opens the faces. Nothing is served before the node has a table.
func listen(faces []face, log zerolog.Logger) ([]gateway.Face, error) {
	var open []gateway.Face
	for _, f := range faces {
		serve, err := f.open()
		if err != nil {
			closeAll(open)
			return nil, err
		}
		l, err := listenAt(f.addr)
		if err != nil {
			closeAll(open)
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		if !f.objects {
			serve = guarded(serve)
		}
		log.Info().Str("face", f.name).Str("addr", l.Addr().String()).Msg("listens")
		open = append(open, gateway.Face{Name: f.name, Listener: l, Serve: serve})
	}
	return open, nil
}

// socketPrefix begins the address of a socket in the file system.
const socketPrefix = "unix:"

func isSocket(addr string) bool { return strings.HasPrefix(addr, socketPrefix) }

// listenAt listens at IP:port, or at a socket that only this user may use. A socket that is left from a process
// which was killed, where nobody listens, is replaced.
func listenAt(addr string) (net.Listener, error) {
	path, socket := strings.CutPrefix(addr, socketPrefix)
	if !socket {
		return net.Listen("tcp", addr)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		if i, err := os.Lstat(path); err == nil && i.Mode().Type() == os.ModeSocket {
			_ = os.Remove(path) // Listen says what is wrong
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func closeAll(open []gateway.Face) {
	for _, f := range open {
		f.Listener.Close()
	}
}
