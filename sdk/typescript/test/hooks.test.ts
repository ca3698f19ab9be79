/** Hooks for logs and traces, options of a call, and the text of messages. */

import { equals, fromBinary, toBinary, toJson } from '@bufbuild/protobuf'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { format, inspect } from 'node:util'
import {
  ConfigError,
  CreateSecretRequestSchema,
  GetSecretResponseSchema,
  GetSecretValueResponseSchema,
  ListSecretsResponseSchema,
  create,
  file_tars_secret_v1_secret as file,
  type Attempt,
  type Interceptor,
} from '../src/index.js'
import { readable } from '../src/text.js'
import { KEY, busy, ok, refusal, scripted } from './server.js'

test('onAttempt gets each attempt, with nothing of the request', async (t) => {
  const attempts: Attempt[] = []
  const tooLarge = refusal(413, 'resource_exhausted', 'BODY_TOO_LARGE')
  const server = await scripted(t, busy, ok(GetSecretResponseSchema, {}), tooLarge)
  const { secret } = server.client({ onAttempt: (attempt) => attempts.push(attempt) })
  await secret.createSecret({ name: 'canary', value: 'canary', expectedVersion: 0 })
  await assert.rejects(secret.getSecret({ name: 'canary' }))
  assert.deepEqual(
    attempts.map(({ procedure, attempt, error, pauseMs }) => [procedure, attempt, error?.reason, error?.requestId, pauseMs !== undefined]),
    [
      ['CreateSecret', 1, 'OVERLOADED', 'r-9', true],
      ['CreateSecret', 2, undefined, undefined, false],
      ['GetSecret', 1, 'BODY_TOO_LARGE', undefined, false],
    ],
  )
  assert.ok(attempts.every(({ durationMs }) => durationMs >= 0))
  assert.doesNotMatch(inspect(attempts, { depth: 10, showHidden: true }) + JSON.stringify(attempts), /canary/i)
})

test('a log that fails does not fail the call', async (t) => {
  const server = await scripted(t, ok(GetSecretResponseSchema, {}))
  let count = 0
  const onAttempt = () => {
    count++
    throw new Error('the disk is full')
  }
  await server.client({ onAttempt }).secret.getSecret({})
  assert.equal(count, 1)
})

test('interceptors see each attempt without the key, and may add headers', async (t) => {
  const server = await scripted(t, busy, ok(GetSecretResponseSchema, {}))
  const seen: string[] = []
  const interceptor =
    (name: string): Interceptor =>
    (next) =>
    async (request) => {
      seen.push(`${name} ${request.method.name} ${request.header.get('authorization')}`)
      request.header.set('traceparent', `00-${name}`)
      return next(request)
    }
  await server.client({ interceptors: [interceptor('a'), interceptor('b')] }).secret.getSecret({})
  assert.deepEqual(seen, ['a GetSecret null', 'b GetSecret null', 'a GetSecret null', 'b GetSecret null'])
  assert.equal(server.requests[1]?.headers['traceparent'], '00-b')
  assert.equal(server.requests[1]?.headers.authorization, `Bearer ${KEY}`)
})

test('a call has settings of its own', async (t) => {
  const server = await scripted(t, busy)
  const { secret } = server.client({ retries: 3 })
  const headers = { traceparent: '00-own', authorization: 'Bearer other', 'user-agent': 'other' }
  await assert.rejects(secret.getSecret({}, { retries: 0, headers }))
  assert.equal(server.requests.length, 1)
  const [sent] = server.requests
  assert.equal(sent?.headers['traceparent'], '00-own')
  assert.equal(sent?.headers.authorization, `Bearer ${KEY}`)
  assert.match(sent?.headers['user-agent'] ?? '', /^agentrouter-sdk/)
  await assert.rejects(secret.getSecret({}, { retries: -1 }), ConfigError)
})

/** All that shows an object to a person. */
const shown = (object: object) =>
  [inspect(object), inspect([{ object }], { depth: 9, showHidden: true }), format('%o %O %j', object, object, object)].join() +
  [JSON.stringify(object), JSON.stringify({ deep: [object] }), `${object}`].join()

test('no text of a message has a value', async (t) => {
  let redacted = 0
  for (const schema of file.messages) {
    for (const { localName, proto } of schema.fields) {
      if (!proto.options?.debugRedact) continue
      redacted++
      const message = readable(schema, create(schema, { [localName]: 'canary' }))
      assert.doesNotMatch(shown(message), /canary/, schema.typeName)
      assert.equal(shown(message).split('[REDACTED]').length - 1, 8, shown(message))
      assert.equal((message as unknown as Record<string, unknown>)[localName], 'canary')
    }
  }
  assert.equal(redacted, 3)

  const server = await scripted(t, ok(GetSecretValueResponseSchema, { value: 'canary', secret: { name: 'n', version: 3 } }))
  const response = await server.client().secret.getSecretValue({ name: 'n' })
  assert.equal(response.value, 'canary')
  assert.doesNotMatch(shown(response), /canary/)
  assert.match(inspect(response), /version: 3/)
})

test('JSON of a response has its times as text', async (t) => {
  const at = Date.UTC(2026, 0, 2, 3, 4, 5, 678)
  const secret = { name: 'n', createdAt: timestampFromMs(at), expiresAt: { seconds: 2n ** 60n, nanos: 0 } }
  const server = await scripted(t, ok(ListSecretsResponseSchema, { secrets: [secret], nextPageToken: 't' }))
  const response = await server.client().secret.listSecrets({})
  const json = JSON.parse(JSON.stringify(response)) as { secrets: Record<string, unknown>[]; nextPageToken: string }
  assert.equal(json.secrets[0]?.['createdAt'], '2026-01-02T03:04:05.678Z')
  assert.equal(json.secrets[0]?.['expiresAt'], `${2n ** 60n}s`)
  assert.equal(json.nextPageToken, 't')
  assert.equal(JSON.parse(JSON.stringify(response.secrets[0])).name, 'n')
  const request = create(CreateSecretRequestSchema, { name: 'n', updateMask: { paths: ['value'] } })
  assert.deepEqual(JSON.parse(`${request}`).updateMask, { paths: ['value'] })
})

test('messages compare, copy and encode as before', () => {
  const init = { value: 'canary', secret: { name: 'n', tags: { env: 'prod' } } }
  const message = create(GetSecretValueResponseSchema, init)
  const decoded = fromBinary(GetSecretValueResponseSchema, toBinary(GetSecretValueResponseSchema, message))
  assert.ok(equals(GetSecretValueResponseSchema, message, decoded))
  assert.deepEqual(message, decoded)
  assert.deepEqual(Object.keys(message), Object.keys(decoded))
  assert.deepEqual(structuredClone(message), decoded)
  assert.equal({ ...message }.value, 'canary')
  assert.deepEqual(toJson(GetSecretValueResponseSchema, message), init)
})
