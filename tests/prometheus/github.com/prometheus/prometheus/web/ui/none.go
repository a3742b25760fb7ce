// Package ui has no pages.
package ui

import "net/http"

// Assets is empty.
var Assets http.FileSystem = http.Dir("/nonexistent")
