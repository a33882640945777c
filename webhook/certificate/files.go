package certificate

import (
	"context"
	"fmt"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

// Files is a certificate and its key on disk, which may be renewed at any time.
type Files struct {
	*dynamiccertificates.DynamicCertKeyPairContent
}

// NewFiles reads a pair, in PEM, that must fit together.
func NewFiles(name, certFile, keyFile string) (Files, error) {
	files, err := dynamiccertificates.NewDynamicServingContentFromFiles(name, certFile, keyFile)
	if err != nil {
		return Files{}, fmt.Errorf("reading the certificate: %w", err)
	}
	return Files{files}, nil
}

// CurrentCertKeyContent reads the files anew, which servers ask for each minute, and gives
// the last pair that fits together: by itself the pair notices events on the files
// alone, of which there are none where links come to lead elsewhere and what they led to stays.
func (f Files) CurrentCertKeyContent() (cert, key []byte) {
	_ = f.RunOnce(context.Background()) // a pair that cannot be read now leaves the one before in force
	return f.DynamicCertKeyPairContent.CurrentCertKeyContent()
}
