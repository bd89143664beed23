package nametemplate

import (
	"mime"
	"strings"

	"github.com/deliveryd/deliveryd/sdk/envelope"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// fileName of an artifact, or what a payload would be called as a file.
func fileName(d *transport.Delivery) string {
	switch {
	case d.Artifact != nil && d.Artifact.Name != "":
		return d.Artifact.Name
	case d.Type != "":
		return d.Type + "." + extension(d)
	}
	return "delivery." + extension(d)
}

// extension without its dot; never empty, so that "{id}.{ext}" always is a name.
func extension(d *transport.Delivery) string {
	contentType := d.ContentType
	if d.Artifact != nil {
		if i := strings.LastIndexByte(d.Artifact.Name, '.'); i > 0 && i < len(d.Artifact.Name)-1 {
			return d.Artifact.Name[i+1:]
		}
		contentType = d.Artifact.ContentType
	}
	return extensionOf(contentType)
}

// extensionOf knows what is delivered most. The system's table is no
// alternative: it differs from machine to machine, and with it the name.
func extensionOf(contentType string) string {
	if envelope.IsJSON(contentType) {
		return "json"
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return "bin"
	}
	switch media {
	case "application/x-ndjson", "application/jsonl":
		return "ndjson"
	case "text/csv":
		return "csv"
	case "text/plain":
		return "txt"
	case "text/html":
		return "html"
	case "application/xml", "text/xml":
		return "xml"
	case "application/pdf":
		return "pdf"
	case "application/zip":
		return "zip"
	case "application/gzip", "application/x-gzip":
		return "gz"
	case "application/zstd":
		return "zst"
	case "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet":
		return "xlsx"
	case "application/vnd.apache.parquet":
		return "parquet"
	}
	return "bin"
}
