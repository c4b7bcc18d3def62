// SPDX-License-Identifier: AGPL-3.0-or-later

// The life of a sandbox with GPUs, by Modal's own Go client: go run ., with MODAL_SERVER_URL set.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"time"

	modal "github.com/modal-labs/modal-client/go"
)

// What the sandbox runs: it waits for a connection, and says so.
const listener = `
import os, socket, sys
print("word is", os.environ["WORD"], flush=True)
print("an error", file=sys.stderr, flush=True)
with socket.create_server(("127.0.0.1", int("0.0.0.0:8000".rpartition(":")[2]))) as server:
    print("listening", flush=True)
    open(sys.argv[1] + "/kept", "w").write("kept")
    connection, _ = server.accept()
    connection.sendall(b"through the tunnel")
    connection.close()
    server.accept()
`

func must[T any](value T, err error) T {
	if err != nil {
		log.Panic(err)
	}
	return value
}

func require(condition bool, what string, found any) {
	if !condition {
		log.Panicf("%s: %v", what, found)
	}
}

// What the sandbox sends, once it listens.
func connect(address string) string {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if connection, err := net.Dial("tcp", address); err == nil {
			data, _ := io.ReadAll(connection)
			connection.Close()
			if len(data) > 0 {
				return string(data)
			}
		}
	}
	return ""
}

func listed(ctx context.Context, client *modal.Client, app *modal.App, maker string) []string {
	ids := []string{}
	tags := map[string]string{"made-by": maker}
	for sandbox, err := range must(client.Sandboxes.List(ctx, &modal.SandboxListParams{AppID: app.AppID, Tags: tags})) {
		ids = append(ids, must(sandbox, err).SandboxID)
	}
	// The call for sandboxes of both kinds finds the same.
	both := 0
	for sandbox, err := range must(client.Sandboxes.ExperimentalList(ctx, &modal.SandboxExperimentalListParams{AppID: app.AppID, Tags: tags})) {
		require(ids[both] == must(sandbox, err).SandboxID, "of both kinds", ids)
		both++
	}
	require(both == len(ids), "of both kinds", both)
	return ids
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	client := must(modal.NewClient())
	app := must(client.Apps.FromName(ctx, "official", &modal.AppFromNameParams{CreateIfMissing: true}))
	volume := must(client.Volumes.FromName(ctx, "official-go", &modal.VolumeFromNameParams{CreateIfMissing: true, Version: 2}))
	_, err := client.Volumes.FromName(ctx, "official-go", &modal.VolumeFromNameParams{Version: 1})
	require(err != nil && strings.Contains(err.Error(), "version"), "a volume's version", err)
	secret := must(client.Secrets.FromMap(ctx, map[string]string{"WORD": "hello"}, nil))
	sandbox := must(client.Sandboxes.Create(ctx, app, client.Images.FromRegistry("python:3.12-slim", nil), &modal.SandboxCreateParams{
		Command:          []string{os.Args[1], "-c", listener, "/data"},
		GPU:              "A100-80GB:2",
		CPU:              2,
		MemoryMiB:        1024,
		Timeout:          5 * time.Minute,
		IdleTimeout:      2 * time.Minute,
		Secrets:          []*modal.Secret{secret},
		Volumes:          map[string]*modal.Volume{"/data": volume},
		UnencryptedPorts: []int{8000},
		EncryptedPorts:   []int{8001},
		Tags:             map[string]string{"made-by": "go"},
	}))
	tags := must(sandbox.GetTags(ctx, nil))
	require(len(tags) == 1 && tags["made-by"] == "go", "tags", tags)

	tunnels := must(sandbox.Tunnels(ctx, 30*time.Second, nil))
	host, port, err := tunnels[8000].TCPSocket()
	sent := connect(fmt.Sprintf("%s:%d", must(host, err), port))
	require(sent == "through the tunnel", "through the tunnel", sent)
	_, _, err = tunnels[8001].TCPSocket()
	require(err != nil, "an encrypted port has no unencrypted address", tunnels[8001])

	output := bufio.NewScanner(sandbox.Stdout)
	for _, line := range []string{"word is hello", "listening"} {
		require(output.Scan() && output.Text() == line, line, output.Text())
	}
	errors := bufio.NewScanner(sandbox.Stderr)
	require(errors.Scan() && errors.Text() == "an error", "an error", errors.Text())

	ids := listed(ctx, client, app, "go")
	require(len(ids) == 1 && ids[0] == sandbox.SandboxID, "listed", ids)
	require(must(sandbox.Poll(ctx, nil)) == nil, "it runs", sandbox.SandboxID)

	code := must(sandbox.Terminate(ctx, &modal.SandboxTerminateParams{Wait: true}))
	require(code == 137, "its exit code", code)
	require(len(listed(ctx, client, app, "go")) == 0, "nothing is listed any more", sandbox.SandboxID)
	fmt.Println("ok")
}
