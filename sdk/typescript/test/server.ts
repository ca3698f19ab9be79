/** A scripted server, and the requests that it received. */

import { create, toBinary, type DescMessage, type MessageInitShape } from '@bufbuild/protobuf'
import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { TestContext } from 'node:test'
import { ErrorInfoSchema } from '../src/gen/google/rpc/error_details_pb.js'
import { Client, GetSecretValueResponseSchema, type ClientOptions } from '../src/index.js'

export const BARE_KEY = 'CanaryCanary0123_0000000000000000000000000000000000000000000canary'
export const KEY = `ak-${BARE_KEY}`

/** A response. With `silence` the server reads the request and does not respond. */
export type Reply = { status: number; type: string; body: Uint8Array | string; headers?: Record<string, string> } | 'silence'

export interface Request {
  path: string
  headers: IncomingHttpHeaders
  body: Buffer
}

/** Responds to each request with the next line of the script, and repeats the last one. */
export async function scripted(t: TestContext, ...script: Reply[]) {
  const requests: Request[] = []
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const reply = script[Math.min(requests.length, script.length - 1)]!
    requests.push({ path: request.url ?? '', headers: request.headers, body: Buffer.concat(chunks) })
    if (reply === 'silence') return
    response.writeHead(reply.status, { 'content-type': reply.type, ...reply.headers })
    response.end(reply.body)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return {
    url,
    requests,
    /** The next responses, in place of the rest of the script. */
    respondWith(...next: Reply[]) {
      script.splice(0, script.length, ...Array<Reply>(requests.length).fill('silence'), ...next)
    },
    client: (options: ClientOptions = {}) => new Client({ baseUrl: url, apiKey: KEY, ...options }),
  }
}

export function ok<D extends DescMessage>(schema: D, message: MessageInitShape<D>): Reply {
  return { status: 200, type: 'application/proto', body: toBinary(schema, create(schema, message)) }
}

export const value = (text: string) => ok(GetSecretValueResponseSchema, { value: text, secret: { name: 'n', version: 3 } })

/** An error as the service sends it: the Connect code in lower case, and the reason in a detail. */
export function refusal(
  status: number,
  code: string,
  reason: string,
  headers: Record<string, string> = {},
  details: { type: string; value: string }[] = [],
): Reply {
  const info = detail('google.rpc.ErrorInfo', ErrorInfoSchema, { reason, domain: 'agentrouter.secret.v1' })
  const body = JSON.stringify({ code, message: 'No.', details: reason ? [info, ...details] : details })
  return { status, type: 'application/json', body, headers }
}

export function detail<D extends DescMessage>(type: string, schema: D, message: MessageInitShape<D>) {
  const bytes = toBinary(schema, create(schema, message))
  return { type, value: Buffer.from(bytes).toString('base64').replace(/=+$/, '') }
}

export const busy = refusal(503, 'unavailable', 'OVERLOADED', { 'x-request-id': 'r-9' })
