// Frontend is the web shop of the quickstart. Its modules are old on purpose:
// the scanner reads them from the build information of the binary.
package main

import (
	"encoding/base64"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/dgrijalva/jwt-go"
	"github.com/gin-gonic/gin"
	"golang.org/x/crypto/ssh"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
	"golang.org/x/text/language"
	"gopkg.in/yaml.v2"
)

// catalogue is what the shop sells.
const catalogue = `
- {name: teapot, cents: 2400}
- {name: cup, cents: 650}
`

type item struct {
	Name  string `yaml:"name" json:"name"`
	Cents int    `yaml:"cents" json:"cents"`
}

var matcher = language.NewMatcher([]language.Tag{language.English, language.German})

func main() {
	var items []item
	if err := yaml.Unmarshal([]byte(catalogue), &items); err != nil {
		log.Fatal(err)
	}
	key := []byte(os.Getenv("SHOP_KEY"))

	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.GET("/items", func(c *gin.Context) {
		tag, _ := language.MatchStrings(matcher, c.GetHeader("Accept-Language"))
		c.Header("Content-Language", tag.String())
		c.JSON(http.StatusOK, items)
	})
	r.POST("/session", func(c *gin.Context) {
		token := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.StandardClaims{
			Subject: c.PostForm("user"), ExpiresAt: time.Now().Add(time.Hour).Unix(),
		})
		signed, err := token.SignedString(key)
		if err != nil {
			c.AbortWithStatus(http.StatusInternalServerError)
			return
		}
		c.JSON(http.StatusOK, gin.H{"token": signed})
	})
	r.POST("/keys", func(c *gin.Context) {
		wire, err := base64.StdEncoding.DecodeString(c.PostForm("key"))
		if err != nil {
			c.AbortWithStatus(http.StatusBadRequest)
			return
		}
		public, err := ssh.ParsePublicKey(wire)
		if err != nil {
			c.AbortWithStatus(http.StatusBadRequest)
			return
		}
		c.JSON(http.StatusOK, gin.H{"fingerprint": ssh.FingerprintSHA256(public)})
	})
	log.Fatal(http.ListenAndServe(":8080", h2c.NewHandler(r, &http2.Server{})))
}
