package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// patience is how long a test waits for what must come, on a busy machine.
const patience = 60 * time.Second

// chromium is the one browser of all tests; each tab has its own cookies.
var chromium context.Context

func TestMain(m *testing.M) {
	os.Exit(func() int {
		program := os.Getenv("ASSAY_CHROMIUM")
		for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
			if path, err := exec.LookPath(name); program == "" && err == nil {
				program = path
			}
		}
		if program == "" {
			fmt.Fprintln(os.Stderr, "there is no browser: install chromium, or name one in ASSAY_CHROMIUM")
			return 1
		}
		options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.Flag("ignore-certificate-errors", true)) // that of the issuer of a test
		if os.Geteuid() == 0 {
			options = append(options, chromedp.NoSandbox) // it does not run for root otherwise
		}
		allocator, end := chromedp.NewExecAllocator(context.Background(), options...)
		defer end()
		var stop context.CancelFunc
		chromium, stop = chromedp.NewContext(allocator)
		defer stop()
		if err := chromedp.Do(chromium); err != nil {
			fmt.Fprintln(os.Stderr, "the browser does not start:", err)
			return 1
		}
		return m.Run()
	}())
}

// tab is a page of the browser, as a person has it before her.
type tab struct {
	t   *testing.T
	w   *world
	ctx context.Context

	mu       sync.Mutex
	asked    []string // by dialogs
	decline  bool     // answer dialogs with no
	troubles []string // on the browser's console
}

// tab opens a browser of its own, without a session. The test fails if its console has an error.
func (w *world) tab() *tab {
	w.t.Helper()
	ctx, cancel := chromedp.NewContext(chromium, chromedp.WithNewBrowserContext())
	b := &tab{t: w.t, w: w, ctx: ctx}
	w.t.Cleanup(func() {
		cancel()
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, x := range b.troubles {
			w.t.Errorf("on the console: %s", x)
		}
	})
	if err := errors.Join(chromedp.Do(ctx), chromedp.Listen(ctx, b.hear)); err != nil { // the first use must not end before the tab does
		w.t.Fatal(err)
	}
	b.size(1280, 800)
	return b
}

// size is that of the window.
func (b *tab) size(width, height int64) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(width, height))
}

func (b *tab) hear(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *page.EventJavascriptDialogOpening:
		b.asked = append(b.asked, e.Message)
		accept := !b.decline
		go func() {
			_, _ = chromedp.Call(b.ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{Accept: accept})
		}()
	case *runtime.EventExceptionThrown:
		b.troubles = append(b.troubles, fmt.Sprintf("%s %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception))
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			text, _ := json.Marshal(e.Args)
			b.troubles = append(b.troubles, string(text))
		}
	case *log.EventEntryAdded:
		refused := e.Entry.Source == log.EntrySourceNetwork && strings.Contains(e.Entry.Text, "status of 4") // as asked for
		if e.Entry.Level == log.EntryLevelError && !refused {
			b.troubles = append(b.troubles, e.Entry.Text+" "+e.Entry.URL)
		}
	}
}

func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatalf("%v\n%s", err, b.screen())
	}
}

// evaluate gives the value of a JavaScript expression.
func evaluate[T any](b *tab, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

func value[T any](b *tab, expression string) T {
	b.t.Helper()
	v, err := evaluate[T](b, expression)
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// wait waits until a JavaScript expression is true.
func (b *tab) wait(what, expression string) {
	b.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(30 * time.Millisecond) {
		if is, err := evaluate[bool](b, expression); err == nil && is { // a page that is on its way gives an error
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("not so: %s\n%s", what, b.screen())
		}
	}
}

// screen is what can be read on the page, for a failure.
func (b *tab) screen() string {
	text, err := evaluate[string](b, `location.href + "\n" + document.body.innerText`)
	if err != nil {
		return err.Error()
	}
	return text[:min(len(text), 3000)]
}

// open goes to an address of the server.
func (b *tab) open(path string) {
	b.t.Helper()
	b.do(chromedp.Navigate(b.w.base + path))
}

func quote(s string) string { return quoteAny(s) }

// see waits until all the texts can be read.
func (b *tab) see(texts ...string) {
	b.t.Helper()
	for _, s := range texts {
		b.wait("the page says "+s, `document.body.innerText.includes(`+quote(s)+`)`)
	}
}

// unseen waits until none of the texts can be read.
func (b *tab) unseen(texts ...string) {
	b.t.Helper()
	for _, s := range texts {
		b.wait("the page does not say "+s, `!document.body.innerText.includes(`+quote(s)+`)`)
	}
}

// at waits for a page by its heading.
func (b *tab) at(title string) {
	b.t.Helper()
	b.wait("the page is "+title, `document.readyState === "complete" && document.querySelector("h1")?.innerText.trim() === `+quote(title))
}

func (b *tab) address() string {
	b.t.Helper()
	return value[string](b, `location.pathname + location.search`)
}

// literal is a text in XPath, which knows no escapes.
func literal(s string) string {
	if !strings.Contains(s, `"`) {
		return `"` + s + `"`
	}
	return `'` + s + `'`
}

func button(text string) string {
	return `//button[contains(normalize-space(.), ` + literal(text) + `)] | //a[contains(@class, "button") and contains(normalize-space(.), ` + literal(text) + `)]`
}
func link(text string) string { return `//a[normalize-space(.) = ` + literal(text) + `]` }
func summary(text string) string {
	return `//summary[contains(normalize-space(.), ` + literal(text) + `)]`
}
func field(label string) string {
	return `//label[starts-with(normalize-space(.), ` + literal(label) + `)]//*[self::input or self::select or self::textarea]`
}

// within finds something inside of what a heading names.
func within(section, path string) string {
	return `//section[.//h2[starts-with(normalize-space(.), ` + literal(section) + `)]]` + path
}

const find = `document.evaluate(%s, document, null, XPathResult.FIRST_ORDERED_NODE_TYPE, null).singleNodeValue`

// click waits for the first element of a path and presses the mouse on it. An element that something
// covers cannot be pressed, as for a person.
func (b *tab) click(path string) {
	b.t.Helper()
	target := fmt.Sprintf(find, quote(path))
	b.wait("there is "+path, target+` !== null`)
	b.wait(path+" can be pressed", `(() => { const e = `+target+`; if (!e) return false; e.scrollIntoView({block: "center", inline: "center"}); const r = e.getClientRects()[0]; if (!r) return false;
		const x = document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2); return x !== null && (e.contains(x) || x.contains(e)); })()`)
	at := value[[]float64](b, `(() => { const r = `+target+`.getClientRects()[0]; return [r.x + r.width / 2, r.y + r.height / 2]; })()`)
	b.do(chromedp.MouseClickXY(at[0], at[1]))
}

// fill types into a field in place of what it has, or chooses what a list calls so.
func (b *tab) fill(label, text string) { b.t.Helper(); b.fillAt(field(label), text) }

func (b *tab) fillAt(path, text string) {
	b.t.Helper()
	target := fmt.Sprintf(find, quote(path))
	b.wait("there is "+path, target+` !== null`)
	switch kind := value[string](b, target+`.type`); kind {
	case "select-one":
		if !value[bool](b, `(() => { const e = `+target+`; for (const o of e.options) if (o.text === `+quote(text)+`) { e.value = o.value; e.dispatchEvent(new Event("change", {bubbles: true})); return true; } return false; })()`) {
			b.t.Fatalf("%s offers no %q", path, text)
		}
	case "date":
		value[bool](b, target+`.value = `+quote(text)+`; true`)
	default:
		value[bool](b, target+`.focus(); `+target+`.select(); true`)
		b.do(chromedp.KeyEvent("\b"))
		if text != "" {
			b.do(chromedp.KeyEvent(text))
		}
		b.wait(path+" has the text", target+`.value === `+quote(text))
	}
}

// has says whether there is an element.
func (b *tab) has(path string) bool {
	b.t.Helper()
	return value[bool](b, fmt.Sprintf(find, quote(path))+` !== null`)
}

// rows are the texts of a table's column, by its heading.
func (b *tab) rows(column string) []string {
	b.t.Helper()
	return value[[]string](b, `(() => { const t = document.querySelector("table.rows"); if (!t) return [];
		const i = [...t.tHead.rows[0].cells].findIndex(c => c.innerText.replace(/[↑↓]/g, "").trim() === `+quote(column)+`);
		return i < 0 ? [] : [...t.tBodies[0].rows].map(r => r.cells[i].innerText.trim()); })()`)
}

// signIn opens a session.
func (b *tab) signIn(token string) *tab {
	b.t.Helper()
	b.open("/signin")
	b.fill("Token", token)
	b.click(button("Sign in"))
	b.at("Overview")
	return b
}

// scheme sets what the person prefers: light or dark.
func (b *tab) scheme(name string) {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}}); err != nil {
		b.t.Fatal(err)
	}
}

// scripts switches JavaScript on or off for the pages to come.
func (b *tab) scripts(on bool) {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on}); err != nil {
		b.t.Fatal(err)
	}
}

// dialog waits for a question of the page.
func (b *tab) dialog() string {
	b.t.Helper()
	var said string
	b.w.until("the page asks", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.asked) == 0 {
			return false
		}
		said, b.asked = b.asked[0], b.asked[1:]
		return true
	})
	return said
}
