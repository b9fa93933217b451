package s3

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Documents of the protocol. Namespace is on each, as clients expect.
const namespace = "http://s3.amazonaws.com/doc/2006-03-01/"

type ownerXML struct {
	ID          string
	DisplayName string
}

// owner is who has everything.
var owner = ownerXML{"dramnode", "dramnode"}

type bucketXML struct {
	Name         string
	CreationDate string
}

type bucketsXML struct {
	XMLName           xml.Name `xml:"ListAllMyBucketsResult"`
	Namespace         string   `xml:"xmlns,attr"`
	Owner             ownerXML
	Buckets           []bucketXML `xml:"Buckets>Bucket"`
	Prefix            string      `xml:",omitempty"`
	ContinuationToken string      `xml:",omitempty"`
}

type objectXML struct {
	Key          string
	LastModified string
	ETag         string
	wholeSumXML
	Size         int64
	Owner        *ownerXML
	StorageClass string
}

type prefixXML struct{ Prefix string }

type listXML struct {
	XMLName        xml.Name `xml:"ListBucketResult"`
	Namespace      string   `xml:"xmlns,attr"`
	Name           string
	Prefix         string
	Delimiter      string `xml:",omitempty"`
	MaxKeys        int
	EncodingType   string `xml:",omitempty"`
	IsTruncated    bool
	Contents       []objectXML
	CommonPrefixes []prefixXML

	// Version 1.
	Marker     *string
	NextMarker string `xml:",omitempty"`
	// Version 2.
	KeyCount              *int
	StartAfter            string `xml:",omitempty"`
	ContinuationToken     string `xml:",omitempty"`
	NextContinuationToken string `xml:",omitempty"`
}

type locationXML struct {
	XMLName   xml.Name `xml:"LocationConstraint"`
	Namespace string   `xml:"xmlns,attr"`
	Region    string   `xml:",chardata"`
}

type versioningXML struct {
	XMLName   xml.Name `xml:"VersioningConfiguration"`
	Namespace string   `xml:"xmlns,attr"`
}

type taggingXML struct {
	XMLName xml.Name `xml:"Tagging"`
	TagSet  struct{} `xml:"TagSet"`
}

type granteeXML struct {
	Schema string `xml:"xmlns:xsi,attr"`
	Type   string `xml:"xsi:type,attr"`
	ownerXML
}

type grantXML struct {
	Grantee    granteeXML
	Permission string
}

type aclXML struct {
	XMLName   xml.Name `xml:"AccessControlPolicy"`
	Namespace string   `xml:"xmlns,attr"`
	Owner     ownerXML
	Grants    []grantXML `xml:"AccessControlList>Grant"`
}

type copyXML struct {
	XMLName      xml.Name
	ETag         string
	LastModified string
	Sums         []sumXML
	ChecksumType string `xml:",omitempty"`
}

type beginXML struct {
	XMLName   xml.Name `xml:"InitiateMultipartUploadResult"`
	Namespace string   `xml:"xmlns,attr"`
	Bucket    string
	Key       string
	UploadID  string `xml:"UploadId"`
}

type completeXML struct {
	XMLName xml.Name `xml:"CompleteMultipartUpload"`
	Parts   []struct {
		PartNumber *int
		ETag       string
		Sums       []sumXML `xml:",any"`
	} `xml:"Part"`
}

type completedXML struct {
	XMLName      xml.Name `xml:"CompleteMultipartUploadResult"`
	Namespace    string   `xml:"xmlns,attr"`
	Location     string
	Bucket       string
	Key          string
	ETag         string
	Sums         []sumXML
	ChecksumType string `xml:",omitempty"`
}

type partXML struct {
	PartNumber   int
	LastModified string
	ETag         string
	Size         int64
	Sums         []sumXML
}

type partsXML struct {
	XMLName      xml.Name `xml:"ListPartsResult"`
	Namespace    string   `xml:"xmlns,attr"`
	Bucket       string
	Key          string
	UploadID     string `xml:"UploadId"`
	Initiator    ownerXML
	Owner        ownerXML
	StorageClass string
	wholeSumXML
	PartNumberMarker     int
	NextPartNumberMarker int
	MaxParts             int
	IsTruncated          bool
	Parts                []partXML `xml:"Part"`
}

type uploadXML struct {
	Key          string
	UploadID     string `xml:"UploadId"`
	Initiator    ownerXML
	Owner        ownerXML
	StorageClass string
	Initiated    string
	wholeSumXML
}

type uploadsXML struct {
	XMLName            xml.Name `xml:"ListMultipartUploadsResult"`
	Namespace          string   `xml:"xmlns,attr"`
	Bucket             string
	KeyMarker          string
	UploadIDMarker     string `xml:"UploadIdMarker"`
	NextKeyMarker      string `xml:",omitempty"`
	NextUploadIDMarker string `xml:"NextUploadIdMarker,omitempty"`
	Prefix             string
	MaxUploads         int
	EncodingType       string `xml:",omitempty"`
	IsTruncated        bool
	Uploads            []uploadXML `xml:"Upload"`
}

type deleteXML struct {
	XMLName xml.Name `xml:"Delete"`
	Quiet   bool
	Objects []struct {
		Key              string
		VersionID        string `xml:"VersionId"`
		ETag             string
		LastModifiedTime *struct{}
		Size             *struct{}
	} `xml:"Object"`
}

type deletedXML struct {
	XMLName   xml.Name `xml:"DeleteResult"`
	Namespace string   `xml:"xmlns,attr"`
	Deleted   []deletedKeyXML
	Errors    []deleteErrorXML `xml:"Error"`
}

type deletedKeyXML struct{ Key string }

type deleteErrorXML struct {
	Key     string
	Code    string
	Message string
}

// stamp is a time as documents have it.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// reply answers with a document.
func (r *request) reply(status int, document any) error {
	var b bytes.Buffer
	b.WriteString(xml.Header)
	if err := xml.NewEncoder(&b).Encode(document); err != nil {
		return fmt.Errorf("s3: %w", err)
	}
	r.w.Header().Set("Content-Type", "application/xml")
	r.w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	r.w.WriteHeader(status)
	_, _ = r.w.Write(b.Bytes()) // the client has gone
	return nil
}

func (r *request) noContent() error {
	r.w.WriteHeader(http.StatusNoContent)
	return nil
}

var errMalformedXML = errCode(malformedXML, "The XML you provided was not well-formed or did not validate against our published schema.")

// maxDocument is the longest document that a client may send: a thousand long keys to delete.
const maxDocument = 4 << 20

// read reads the document that the client sends; without one it changes nothing when it may be missing.
func (r *request) read(document any, mayMiss bool) error {
	body, err := r.body()
	if err != nil {
		return err
	}
	if body.size > maxDocument {
		return errCode(malformedXML, "The document is too long.")
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	if len(text) == 0 && mayMiss {
		return nil
	}
	if err := xml.Unmarshal(text, document); err != nil {
		return errCode(malformedXML, "The XML you provided was not well-formed or did not validate against our published schema: "+err.Error())
	}
	return nil
}

// readUnchecked is read for a document whose checksum headers are about something else.
func (r *request) readUnchecked(document any) error {
	plain := *r
	plain.Request = r.headersOfBody()
	return plain.read(document, false)
}
