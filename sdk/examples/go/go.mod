module example

go 1.24.0

require github.com/tetrateio/agentrouter-go v0.1.1

// The folder that the tarball of the server's Download SDK page unpacks into.
replace github.com/tetrateio/agentrouter-go => ./third_party/agentrouter-go-0.1.1
