// Backend keeps the orders of the quickstart's shop. It uses the modules that
// the frontend uses, in patched versions.
package main

import (
	"log"
	"net/http"
	"os"

	"github.com/gin-gonic/gin"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/crypto/ssh"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
	"golang.org/x/text/language"
	"gopkg.in/yaml.v2"
)

type order struct {
	Item  string `yaml:"item" json:"item"`
	Count int    `yaml:"count" json:"count"`
}

func main() {
	key := []byte(os.Getenv("SHOP_KEY"))
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.POST("/orders", func(c *gin.Context) {
		claims := jwt.RegisteredClaims{}
		_, err := jwt.ParseWithClaims(c.GetHeader("X-Token"), &claims, func(*jwt.Token) (any, error) { return key, nil },
			jwt.WithValidMethods([]string{"HS256"}))
		if err != nil {
			c.AbortWithStatus(http.StatusUnauthorized)
			return
		}
		var orders []order
		body, err := c.GetRawData()
		if err == nil {
			err = yaml.UnmarshalStrict(body, &orders)
		}
		if err != nil {
			c.AbortWithStatus(http.StatusBadRequest)
			return
		}
		c.Header("Content-Language", language.English.String())
		c.JSON(http.StatusAccepted, gin.H{"user": claims.Subject, "orders": orders})
	})
	r.POST("/keys", func(c *gin.Context) {
		body, err := c.GetRawData()
		if err != nil {
			c.AbortWithStatus(http.StatusBadRequest)
			return
		}
		public, comment, _, _, err := ssh.ParseAuthorizedKey(body)
		if err != nil {
			c.AbortWithStatus(http.StatusBadRequest)
			return
		}
		c.JSON(http.StatusOK, gin.H{"fingerprint": ssh.FingerprintSHA256(public), "comment": comment})
	})
	log.Fatal(http.ListenAndServe(":8081", h2c.NewHandler(r, &http2.Server{})))
}
