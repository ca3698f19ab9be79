module github.com/tetrateio/agentrouter-go

go 1.24.0

require (
	connectrpc.com/connect v1.19.2
	google.golang.org/genproto/googleapis/api v0.0.0-20250825161204-c5933d9347a5
	google.golang.org/genproto/googleapis/rpc v0.0.0-20250825161204-c5933d9347a5
	google.golang.org/protobuf v1.36.12
)

require (
	golang.org/x/net v0.48.0
	golang.org/x/text v0.32.0 // indirect
)
