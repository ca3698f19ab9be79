/** A fault-injecting proxy: one fault of a list for each request. It forwards the requests after them. */

import { createServer, request as plain, type IncomingMessage, type ServerResponse } from 'node:http'
import { request as secure } from 'node:https'
import type { AddressInfo } from 'node:net'
import { setTimeout } from 'node:timers/promises'

const REFUSALS: Record<string, [status: number, headers: Record<string, string>, body: string]> = {
  unavailable: [503, { 'content-type': 'application/json' }, '{"code":"unavailable","message":"try again"}'],
  bad_gateway: [502, { 'content-type': 'text/html' }, '<html>bad gateway</html>'],
  not_found_page: [404, { 'content-type': 'text/html' }, '<html>not found</html>'],
  corrupt: [
    500,
    { 'content-type': 'application/json' },
    '{"code":"internal","message":"does not open","details":[{"type":"google.rpc.ErrorInfo",' +
      '"value":"Cg5TRUNSRVRfQ09SUlVQVBIVYWdlbnRyb3V0ZXIuc2VjcmV0LnYx"}]}',
  ],
  exhausted: [
    400,
    { 'content-type': 'application/json' },
    '{"code":"failed_precondition","message":"used up","details":[{"type":"google.rpc.ErrorInfo",' +
      '"value":"ChJWRVJTSU9OU19FWEhBVVNURUQSFWFnZW50cm91dGVyLnNlY3JldC52MQ"}]}',
  ],
  rate_limited: [
    429,
    { 'content-type': 'application/json', 'retry-after': '1' },
    '{"code":"resource_exhausted","message":"slow down","details":[{"type":"google.rpc.ErrorInfo",' +
      '"value":"CgxSQVRFX0xJTUlURUQSFWFnZW50cm91dGVyLnNlY3JldC52MQ"}]}',
  ],
}

export interface Proxy {
  readonly url: string
  /** The number of requests. */
  attempts(): number
  close(): void
}

export async function proxy(target: string, faults: readonly string[]): Promise<Proxy> {
  for (const fault of faults) {
    if (!['pass', 'slow', 'drop', 'lose', 'stall'].includes(fault) && !(fault in REFUSALS)) {
      throw new Error(`the runner does not know the fault '${fault}'`)
    }
  }
  let arrived = 0
  const server = createServer(async (request, response) => {
    const fault = faults[arrived++] ?? 'pass'
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    if (fault === 'slow') await setTimeout(1500)
    const refusal = REFUSALS[fault]
    if (refusal) {
      response.writeHead(refusal[0], refusal[1]).end(refusal[2])
    } else if (fault === 'drop') {
      request.socket.destroy()
    } else if (fault !== 'stall') {
      forward(target, request, Buffer.concat(chunks), response, fault === 'lose')
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    attempts: () => arrived,
    close() {
      server.close()
      server.closeAllConnections()
    },
  }
}

function forward(target: string, from: IncomingMessage, body: Buffer, to: ServerResponse, lose: boolean): void {
  const url = target.replace(/\/$/, '') + from.url
  const { host: _, connection: __, ...headers } = from.headers
  const onward = (url.startsWith('https:') ? secure : plain)(url, { method: from.method ?? 'POST', headers }, (response) => {
    if (lose) {
      response.resume().on('end', () => from.socket.destroy())
    } else {
      to.writeHead(response.statusCode ?? 502, response.headers)
      response.pipe(to)
    }
  })
  onward.on('error', () => from.socket.destroy())
  onward.end(body)
}
