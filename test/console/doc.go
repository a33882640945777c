// Package console tests the server's pages as people use them, in a real headless Chromium:
// each task, on a desktop and on a phone, light and dark, with and without JavaScript, held
// against axe-core's rules. It needs the program chromium, as Debian has it; ASSAY_CHROMIUM
// names another one. Without a browser the tests fail.
//
// testdata/axe.min.js is axe-core 4.11.4 from the npm registry, under the licence beside it.
package console

//go:generate go test -run TestScreenshots -update
