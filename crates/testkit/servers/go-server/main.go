// A static Go server: raw system calls, no libc, so nothing that is preloaded can see its sockets.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"
)

func answer(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if r.URL.Path == "/slow" {
		ms, err := strconv.Atoi(query.Get("ms"))
		if err != nil {
			ms = 100
		}
		time.Sleep(time.Duration(ms) * time.Millisecond)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"pid":        os.Getpid(),
		"generation": os.Getenv("STAYPUT_GENERATION"),
		"n":          query.Get("n"),
	})
}

func main() {
	port := flag.Int("port", 0, "port to listen on")
	host := flag.String("host", "127.0.0.1", "address to listen on")
	flag.Parse()
	if fault := os.Getenv("TESTKIT_FAULT"); fault != "" {
		if _, err := os.Stat(fault); err == nil {
			fmt.Fprintln(os.Stderr, "this version is broken:", fault, "exists")
			os.Exit(1)
		}
	}
	http.HandleFunc("/", answer)
	err := http.ListenAndServe(fmt.Sprintf("%s:%d", *host, *port), nil)
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
