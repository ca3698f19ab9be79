import { fromBinary } from '@bufbuild/protobuf'
import assert from 'node:assert/strict'
import { createServer, type AddressInfo, type Server } from 'node:net'
import { test } from 'node:test'
import { inspect } from 'node:util'
import { BadRequestSchema, RetryInfoSchema } from '../src/gen/google/rpc/error_details_pb.js'
import {
  AgentRouterError,
  Client,
  ConfigError,
  CreateSecretRequestSchema,
  CreateSecretResponseSchema,
  GetSecretResponseSchema,
  ListSecretsRequestSchema,
  ListSecretsResponseSchema,
  STATUS,
} from '../src/index.js'
import { BARE_KEY, KEY, busy, detail, ok, refusal, scripted, value, type Reply } from './server.js'

const found = ok(GetSecretResponseSchema, { secret: { name: 'n', version: 3 } })

/** The error that a call rejects with. Checks that it contains no key and no value. */
async function failure(call: Promise<unknown>): Promise<AgentRouterError> {
  try {
    await call
  } catch (error) {
    assert.doesNotMatch(inspect(error, { depth: 10, showHidden: true }) + JSON.stringify(error), /canary/i)
    assert.ok(error instanceof AgentRouterError, inspect(error))
    return error
  }
  assert.fail('the call succeeded')
}

test('a call carries the key and the request, and returns the response', async (t) => {
  const server = await scripted(t, ok(CreateSecretResponseSchema, { secret: { name: 'n', version: 1, status: STATUS.ACTIVE } }))
  const response = await server.client().secret.createSecret({
    name: 'n',
    value: 'grüße 🔑',
    tags: { env: 'prod' },
    expectedVersion: 0,
    updateMask: { paths: ['value', 'tags'] },
  })
  assert.deepEqual([response.secret?.version, response.secret?.status], [1, 'active'])
  const [request] = server.requests
  assert.equal(request?.path, '/agentrouter.secret.v1.SecretService/CreateSecret')
  assert.equal(request.headers.authorization, `Bearer ${KEY}`)
  assert.equal(request.headers['content-type'], 'application/proto')
  const sent = fromBinary(CreateSecretRequestSchema, request.body)
  assert.deepEqual([sent.value, sent.tags, sent.expectedVersion], ['grüße 🔑', { env: 'prod' }, 0])
})

test('each call goes to its own procedure', async (t) => {
  const server = await scripted(t, { status: 200, type: 'application/proto', body: '' })
  const { secret } = server.client()
  await secret.createSecret({})
  await secret.getSecret({})
  await secret.listSecrets({})
  await secret.deleteSecret({})
  await secret.rotateSecret({})
  await secret.validateSecret({})
  await secret.getSecretValue({})
  const names = ['CreateSecret', 'GetSecret', 'ListSecrets', 'DeleteSecret', 'RotateSecret', 'ValidateSecret', 'GetSecretValue']
  assert.deepEqual(
    server.requests.map(({ path }) => path.split('/').at(-1)),
    names,
  )
})

test('a refusal keeps every detail of the response', async (t) => {
  const bad = detail('google.rpc.BadRequest', BadRequestSchema, {
    fieldViolations: [{ field: 'page_size', description: 'must not be negative' }],
  })
  const server = await scripted(t, refusal(400, 'invalid_argument', 'INVALID_REQUEST', { 'x-request-id': 'r-1' }, [bad]))
  const error = await failure(server.client().secret.listSecrets({ pageSize: -1 }))
  assert.deepEqual([error.code, error.reason, error.rawMessage, error.requestId], ['INVALID_ARGUMENT', 'INVALID_REQUEST', 'No.', 'r-1'])
  assert.equal(error.message, 'INVALID_ARGUMENT (INVALID_REQUEST): No. [request r-1]')
  assert.deepEqual(error.violations, [{ field: 'page_size', description: 'must not be negative' }])
  assert.equal(error.isTransport, false)
  assert.equal(server.requests.length, 1)
})

test('every code of the protocol has its canonical name', async (t) => {
  const names = ['unknown', 'invalid_argument', 'deadline_exceeded', 'not_found', 'already_exists', 'permission_denied']
  names.push('resource_exhausted', 'failed_precondition', 'aborted', 'out_of_range', 'unimplemented', 'internal')
  names.push('unavailable', 'data_loss', 'unauthenticated')
  for (const name of names) {
    const server = await scripted(t, refusal(400, name, 'R'))
    assert.equal((await failure(server.client({ retries: 0 }).secret.getSecret({}))).code, name.toUpperCase())
  }
  const server = await scripted(t, refusal(499, 'canceled', 'R'))
  assert.equal((await failure(server.client().secret.getSecret({}))).code, 'CANCELED')
})

test('a read is tried again while the server is unavailable', async (t) => {
  const server = await scripted(t, busy, busy, found)
  const response = await server.client().secret.getSecret({ name: 'n' })
  assert.equal(response.secret?.version, 3)
  assert.equal(server.requests.length, 3)
})

test('retries end with the last refusal', async (t) => {
  const server = await scripted(t, busy)
  const error = await failure(server.client().secret.getSecret({ name: 'n' }))
  assert.deepEqual([error.code, error.reason, error.requestId], ['UNAVAILABLE', 'OVERLOADED', 'r-9'])
  assert.equal(server.requests.length, 3)
  await failure(server.client({ retries: 0 }).secret.getSecret({ name: 'n' }))
  assert.equal(server.requests.length, 4)
})

test('a write is tried again only if it names the version it expects', async (t) => {
  const tries = async (call: (secret: Client['secret']) => Promise<unknown>) => {
    const server = await scripted(t, busy)
    await failure(call(server.client({ retries: 1 }).secret))
    return server.requests.length
  }
  assert.equal(await tries((secret) => secret.createSecret({ name: 'n', value: 'v' })), 1)
  assert.equal(await tries((secret) => secret.createSecret({ name: 'n', value: 'v', expectedVersion: 0 })), 2)
  assert.equal(await tries((secret) => secret.rotateSecret({ name: 'n', newValue: 'v' })), 1)
  assert.equal(await tries((secret) => secret.rotateSecret({ name: 'n', newValue: 'v', expectedVersion: 3 })), 2)
  assert.equal(await tries((secret) => secret.deleteSecret({ name: 'n' })), 1)
  assert.equal(await tries((secret) => secret.validateSecret({ name: 'n' })), 2)
  const loose = { name: 'n', value: 'v', expectedVersion: null } as unknown as { name: string }
  assert.equal(await tries((secret) => secret.createSecret(loose)), 1)
})

test('a final refusal is not tried again', async (t) => {
  for (const [status, code, reason] of [
    [429, 'resource_exhausted', 'BODY_TOO_LARGE'],
    [404, 'not_found', 'SECRET_NOT_FOUND'],
    [409, 'aborted', 'VERSION_MISMATCH'],
    [500, 'internal', 'INTERNAL'],
  ] as const) {
    const server = await scripted(t, refusal(status, code, reason))
    await failure(server.client().secret.getSecret({ name: 'n' }))
    assert.equal(server.requests.length, 1, reason)
  }
})

test('a retry waits for Retry-After, or the call fails at once if that is beyond the timeout', async (t) => {
  const limited = (seconds: number) => refusal(429, 'resource_exhausted', 'RATE_LIMITED', { 'retry-after': String(seconds) })
  let server = await scripted(t, limited(1), found)
  let start = performance.now()
  await server.client().secret.getSecret({ name: 'n' })
  assert.ok(performance.now() - start >= 999)

  server = await scripted(t, limited(60))
  start = performance.now()
  const error = await failure(server.client().secret.getSecret({ name: 'n' }))
  assert.ok(performance.now() - start < 9000)
  assert.equal(error.retryAfterMs, 60_000)
  assert.equal(server.requests.length, 1)

  const exact = detail('google.rpc.RetryInfo', RetryInfoSchema, { retryDelay: { seconds: 59n, nanos: 500_000_000 } })
  server = await scripted(t, refusal(503, 'unavailable', 'OVERLOADED', { 'retry-after': '60' }, [exact]))
  assert.equal((await failure(server.client().secret.getSecret({}))).retryAfterMs, 59_500)
})

test('a server that does not respond fails the call after the timeout, retries included', async (t) => {
  const server = await scripted(t, 'silence')
  const start = performance.now()
  const error = await failure(server.client({ timeoutMs: 1000 }).secret.getSecret({ name: 'n' }))
  assert.deepEqual([error.code, error.isTransport], ['DEADLINE_EXCEEDED', true])
  assert.match(error.message, /1000 ms/)
  await failure(server.client().secret.getSecret({ name: 'n' }, { timeoutMs: 800 }))
  assert.ok(performance.now() - start < 9000)
  assert.equal(server.requests.length, 2)
  await assert.rejects(server.client().secret.getSecret({}, { timeoutMs: 0 }), ConfigError)
})

test('an aborted signal ends the call, also between its attempts', async (t) => {
  const silent = await scripted(t, 'silence')
  let error = await failure(silent.client().secret.getSecret({}, { signal: AbortSignal.timeout(1000) }))
  assert.equal(error.code, 'CANCELED')
  assert.equal((error.cause as Error).name, 'TimeoutError')
  error = await failure(silent.client().secret.getSecret({}, { signal: AbortSignal.abort('enough') }))
  assert.deepEqual([error.code, error.cause], ['CANCELED', 'enough'])
  assert.equal(silent.requests.length, 1)

  const limited = await scripted(t, refusal(429, 'resource_exhausted', 'RATE_LIMITED', { 'retry-after': '9' }))
  const start = performance.now()
  error = await failure(limited.client().secret.getSecret({}, { signal: AbortSignal.timeout(1000) }))
  assert.equal(error.code, 'CANCELED')
  assert.ok(performance.now() - start < 8000)
  assert.equal(limited.requests.length, 1)
})

test('a server that is not running has its own error', async () => {
  const url = await onPort((server) => server.close())
  const error = await failure(new Client({ baseUrl: url, apiKey: KEY }).secret.getSecret({}))
  assert.deepEqual([error.code, error.reason, error.isTransport], ['UNAVAILABLE', undefined, true])
  assert.match(error.message, /ECONNREFUSED/)
})

test('something else on the port is not taken for the service', async (t) => {
  const others: Reply[] = [
    { status: 404, type: 'text/html', body: '<html>nginx</html>' },
    { status: 200, type: 'text/html', body: '<html>hello</html>' },
    { status: 502, type: 'application/json', body: `{"message":"\u001b[31m sent ${BARE_KEY}"}` },
    { status: 502, type: 'application/json', body: '<' },
    { status: 200, type: 'application/proto', body: 'no message' },
    { status: 307, type: 'text/html', body: '', headers: { location: 'http://127.0.0.1:1/' } },
  ]
  for (const other of others) {
    const server = await scripted(t, other)
    const error = await failure(server.client({ retries: 0 }).secret.getSecret({}))
    assert.ok(error.isTransport, inspect(error))
    assert.ok(!error.message.includes('\u001b'))
  }
  const url = await onPort((server) => t.after(() => server.close()), 'SSH-2.0-OpenSSH_9.6\r\n')
  assert.ok((await failure(new Client({ baseUrl: url, apiKey: KEY }).secret.getSecret({}))).isTransport)
})

test('a server that repeats the key, at any length, does not get it into an error', async (t) => {
  const refused = { code: 'not_found', message: `${KEY} ${'x'.repeat(9000)}` }
  const headers = { 'x-agentrouter-reason': 'SECRET_NOT_FOUND', 'x-request-id': KEY }
  const server = await scripted(t, { status: 404, type: 'application/json', body: JSON.stringify(refused), headers })
  const error = await failure(server.client().secret.getSecret({}))
  assert.equal(error.reason, 'SECRET_NOT_FOUND')
  assert.ok(error.rawMessage.length <= 500)
})

test('what the wire cannot hold is refused by field, and never sent or repeated', async (t) => {
  const server = await scripted(t, value('v'))
  const { secret } = server.client()
  for (const [call, field] of [
    [secret.createSecret({ name: 'n', value: 'canary \ud800' }), 'value'],
    [secret.createSecret({ name: 'n', tags: { '\udc00': 'canary' } }), 'tags'],
    [secret.rotateSecret({ name: 'n', newValue: '\udfff canary' }), 'new_value'],
    [secret.listSecrets({ pageSize: 2 ** 40 }), 'page_size'],
    [secret.listSecrets({ pageSize: 'canary' as unknown as number }), 'page_size'],
    [secret.getSecretValue({ version: 0.5 }), 'version'],
    [secret.createSecret({ name: 'n', value: 'canary', tag: { canary: 'canary' } } as object), 'tag'],
    [secret.rotateSecret({ name: 'n', new_value: 'canary' } as object), 'new_value'],
  ] as const) {
    const error = await failure(call)
    assert.deepEqual([error.code, error.reason], ['INVALID_ARGUMENT', 'INVALID_REQUEST'])
    assert.deepEqual(error.violations.map((violation) => violation.field), [field])
  }
  assert.equal(server.requests.length, 0)
})

test('a walk over a list follows the tokens to the end, with its filters', async (t) => {
  const page = (names: string[], nextPageToken: string) =>
    ok(ListSecretsResponseSchema, { secrets: names.map((name) => ({ name })), nextPageToken })
  const server = await scripted(t, page(['a', 'b'], 't1'), page([], 't2'), page(['c'], ''))
  const names = []
  for await (const { name } of server.client().secret.listAllSecrets({ realm: 'mcp', pageSize: 2 })) names.push(name)
  assert.deepEqual(names, ['a', 'b', 'c'])
  const sent = server.requests.map(({ body }) => fromBinary(ListSecretsRequestSchema, body))
  assert.deepEqual(
    sent.map(({ realm, pageSize, pageToken }) => [realm, pageSize, pageToken]),
    [
      ['mcp', 2, ''],
      ['mcp', 2, 't1'],
      ['mcp', 2, 't2'],
    ],
  )
})

test('the error is distinct from others, also across copies of the package', () => {
  const error: unknown = new AgentRouterError({ code: 'ABORTED', message: 'm' })
  class Other extends AgentRouterError {}
  assert.ok(error instanceof AgentRouterError && error instanceof Error)
  assert.ok(!(error instanceof Other) && new Other({ code: 'ABORTED', message: 'm' }) instanceof Other)
  for (const no of [new Error('m'), { code: 'ABORTED' }, null, 'ABORTED']) assert.ok(!((no as unknown) instanceof AgentRouterError))
  switch (error.code) {
    case 'ABORTED':
      break
    default:
      assert.fail()
  }
  // @ts-expect-error The compiler rejects an unknown code.
  assert.ok(error.code !== 'MISSPELT')
})

/** The URL of a raw TCP server that greets with `text`. */
async function onPort(then: (server: Server) => unknown, text = ''): Promise<string> {
  const server = createServer((socket) => {
    socket.on('error', () => {})
    socket.end(text)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  then(server)
  return `http://127.0.0.1:${port}`
}
