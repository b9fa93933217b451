package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/config"
	"github.com/dramnode/dramnode/gateway"
	"github.com/dramnode/dramnode/gateway/gcs"
	"github.com/dramnode/dramnode/gateway/object"
	"github.com/dramnode/dramnode/gateway/s3"
)

// objectSettings are those of the faces that speak of objects.
type objectSettings struct {
	s3            string
	s3Keys        config.Secrets
	s3KeyFile     string
	s3Anonymous   bool
	s3Region      string
	s3ETag        string
	gcs           string
	gcsTokens     config.Secrets
	gcsTokenFile  string
	cors          []string
	uploadMemory  config.Bytes
	uploadTimeout time.Duration
}

func (s *objectSettings) objectFlags(f *pflag.FlagSet) {
	s.uploadMemory = 1 << 30
	f.StringVar(&s.s3, "s3", "", "serve S3, and plain HTTP reads, on this `IP:port` (default: off)")
	f.Var(&s.s3Keys, "s3-keys", "who may use S3, `ACCESS:SECRET,...`; better in DRAMNODE_S3_KEYS or a file")
	f.StringVar(&s.s3KeyFile, "s3-key-file", "", "`file` with lines ACCESS:SECRET")
	f.BoolVar(&s.s3Anonymous, "s3-anonymous-read", false, "with keys: GET, HEAD and lists need none")
	f.StringVar(&s.s3Region, "s3-region", "us-east-1", "region that S3 clients are told")
	f.StringVar(&s.s3ETag, "s3-etag", "generation", "ETags: generation (never repeat) or md5 (as Amazon's)")
	f.StringVar(&s.gcs, "gcs", "", "serve the JSON API of Google Cloud Storage on this `IP:port` (default: off)")
	f.Var(&s.gcsTokens, "gcs-tokens", "bearer tokens that may use it, `TOKEN,...`; better in DRAMNODE_GCS_TOKENS or a file")
	f.StringVar(&s.gcsTokenFile, "gcs-token-file", "", "`file` with a token in each line")
	f.StringSliceVar(&s.cors, "cors", nil, "`origins` whose web pages may use S3 and GCS; * for all, to read")
	f.Var(&s.uploadMemory, "upload-memory", "limit for the parts of S3 uploads that are not complete, in the whole cluster")
	f.DurationVar(&s.uploadTimeout, "upload-timeout", 24*time.Hour, "an S3 upload in parts that takes longer is given up")
}

// objectFaces are those that were asked for. All faults are reported at once.
func (s *serveSettings) objectFaces() ([]face, error) {
	keys, tokens := slices.Clone(s.s3Keys), slices.Clone(s.gcsTokens)
	faults := []error{keys.ReadSecrets(s.s3KeyFile), tokens.ReadSecrets(s.gcsTokenFile)}
	pairs, err := keys.Pairs("s3-keys")
	faults = append(faults, err)
	if s.s3KeyFile != "" && len(pairs) == 0 || s.gcsTokenFile != "" && len(tokens) == 0 {
		faults = append(faults, fmt.Errorf("%w: a file of keys or tokens has none", dramnode.ErrInvalid))
	}
	if s.s3ETag != "generation" && s.s3ETag != "md5" {
		faults = append(faults, fmt.Errorf("%w: --s3-etag %q, want generation or md5", dramnode.ErrInvalid, s.s3ETag))
	}
	if s.uploadTimeout <= 0 || s.uploadMemory <= 0 {
		faults = append(faults, fmt.Errorf("%w: --upload-timeout and --upload-memory must be more than 0", dramnode.ErrInvalid))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	log, err := s.logger(os.Stderr, terminal(os.Stderr))
	if err != nil {
		return nil, err
	}
	objects := object.Config{StagingBytes: int64(s.uploadMemory), UploadTimeout: s.uploadTimeout, MD5: s.s3ETag == "md5"}
	var list []face
	add := func(name, addr string, serve gateway.Serve) {
		if addr != "" {
			list = append(list, face{name: name, addr: addr, open: func() (gateway.Serve, error) { return serve, nil }, objects: true})
		}
	}
	add("s3", s.s3, s3.Serve(s3.Config{Keys: pairs, AnonymousRead: s.s3Anonymous, Region: s.s3Region, MD5: objects.MD5, CORS: s.cors, Objects: objects, Log: log}))
	add("gcs", s.gcs, gcs.Serve(gcs.Config{Tokens: tokens, CORS: s.cors, Objects: objects, Log: log}))
	return list, nil
}

// guarded is a face that knows no objects.
func guarded(serve gateway.Serve) gateway.Serve {
	return func(ctx context.Context, l net.Listener, s gateway.Store) error {
		return serve(ctx, l, object.Guard(s))
	}
}
