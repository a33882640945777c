package daemon

import (
	"net/http"

	"github.com/assay-dev/assay/console"
	"github.com/assay-dev/assay/server"
	"github.com/assay-dev/assay/server/auth"
)

// Routes are those of all that is served.
func Routes() (auth.Routes, error) {
	pages, err := console.New(console.Config{
		BeginLogin:  func(http.ResponseWriter, *http.Request, string) error { return nil },
		FinishLogin: func(http.ResponseWriter, *http.Request) (string, error) { return "", nil },
	})
	if err != nil {
		return nil, err
	}
	none := http.NotFoundHandler()
	return newSite(server.New(server.Config{}), pages, none, none, none, none).routes, nil
}
