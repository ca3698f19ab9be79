/** Tests of the built package: its two module formats, its README, and that it needs nothing that only Node has. */

import { build } from 'esbuild'
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { runInNewContext } from 'node:vm'
import { publint } from 'publint'
import * as source from '../src/index.js'
import { KEY, refusal, scripted, value } from './server.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const tsx = createRequire(import.meta.url).resolve('tsx/cli')
const run = promisify(execFile)

/** A folder below the package, so that its name resolves to the build, as in a program that has it installed. */
function folder(t: TestContext): string {
  const path = mkdtempSync(join(root, 'node_modules', '.test-'))
  t.after(() => rmSync(path, { recursive: true }))
  cpSync(join(root, 'package.json'), join(path, 'node_modules/@tetrate/agentrouter-sdk/package.json'))
  cpSync(join(root, 'dist'), join(path, 'node_modules/@tetrate/agentrouter-sdk/dist'), { recursive: true })
  return path
}

test('the example of the README runs as it stands', async (t) => {
  const readme = readFileSync(join(root, 'README.md'), 'utf8')
  const example = /```ts\n(.*?)```/s.exec(readme)?.[1]
  assert.ok(example)
  const file = join(folder(t), 'index.mts')
  writeFileSync(file, example)
  const server = await scripted(t, value('0123456789'), refusal(404, 'not_found', 'SECRET_NOT_FOUND'))
  const env = { ...process.env, AGENTROUTER_BASE_URL: server.url, AGENTROUTER_API_KEY: KEY }
  assert.equal((await run(process.execPath, [tsx, file], { env })).stdout, 'version 3 is 10 characters long\n')
  assert.equal((await run(process.execPath, [tsx, file], { env })).stdout, 'there is no such secret\n')
})

test('ES modules and CommonJS have the same names, and know each other’s errors', async (t) => {
  const file = join(folder(t), 'both.cjs')
  writeFileSync(
    file,
    `const required = require('@tetrate/agentrouter-sdk')
     import('@tetrate/agentrouter-sdk').then((imported) => {
       const error = new required.AgentRouterError({ code: 'ABORTED', message: 'm' })
       const names = (module) => Object.keys(module).sort()
       const known = required.AgentRouterError !== imported.AgentRouterError && error instanceof imported.AgentRouterError
       console.log(JSON.stringify({ required: names(required), imported: names(imported), known }))
     })`,
  )
  const { required, imported, known } = JSON.parse((await run(process.execPath, [file])).stdout)
  assert.deepEqual(required, Object.keys(source).sort())
  assert.deepEqual(imported, required)
  assert.equal(known, true)
})

for (const [format, module, resolution] of [
  ['mts', 'nodenext', 'nodenext'],
  ['cts', 'nodenext', 'nodenext'],
  ['ts', 'esnext', 'bundler'],
] as const) {
  test(`the types are found from .${format} under ${resolution}`, async (t) => {
    const path = folder(t)
    const [req, res] = ['typeof tars_secret_v1_secret_pb.CreateSecretRequestSchema', 'CreateSecretResponse']
    writeFileSync(
      join(path, `index.${format}`),
      `import { Client, tars_secret_v1_secret_pb, type CreateSecretResponse } from '@tetrate/agentrouter-sdk'
       import type { MessageInitShape } from '@bufbuild/protobuf'
       const client = new Client({ baseUrl: undefined, apiKey: undefined })
       export const call: (req: MessageInitShape<${req}>) => Promise<${res}> = (req) => client.secret.createSecret(req)
       export const schema = tars_secret_v1_secret_pb.CreateSecretRequestSchema
       // @ts-expect-error The compiler reports a field that does not exist.
       call({ nmae: 'n' })`,
    )
    const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc')
    const options = ['--ignoreConfig', '--noEmit', '--strict', '--target', 'es2022', '--module', module, '--moduleResolution', resolution]
    await run(process.execPath, [tsc, ...options, `index.${format}`], { cwd: path }).catch((error: { stdout: string }) =>
      assert.fail(error.stdout),
    )
  })
}

test('a browser can run it: nothing is imported from Node, and nothing is asked of it', async (t) => {
  const entry = `import { Client } from '@tetrate/agentrouter-sdk'
    globalThis.made = new Client({ baseUrl: 'https://h', apiKey: '${KEY}', fetch: globalThis.send })
    globalThis.call = () => globalThis.made.secret.getSecret({ name: 'n' })
    try { new Client() } catch (error) { globalThis.refused = error.name }`
  const { outputFiles } = await build({
    stdin: { contents: entry, resolveDir: folder(t) },
    bundle: true,
    platform: 'browser',
    format: 'iife',
    write: false,
  })
  const sent: Headers[] = []
  const send = (_url: string, init: RequestInit) => {
    sent.push(init.headers as Headers)
    assert.equal(init.credentials, 'omit')
    return Promise.resolve(new Response(new Uint8Array(), { headers: { 'content-type': 'application/proto' } }))
  }
  // The globals of a browser that the bundle needs: no process, no require, no Buffer.
  const { AbortController, Headers, TextDecoder, TextEncoder, URL, performance } = globalThis
  const page: Record<string, any> = { AbortController, Headers, TextDecoder, TextEncoder, URL, performance, send }
  Object.assign(page, { Response, Request, fetch, atob, btoa, setTimeout, clearTimeout })
  runInNewContext(outputFiles[0]!.text, page)
  assert.equal(page['refused'], 'ConfigError')
  await page['call']()
  assert.equal(sent[0]?.get('authorization'), `Bearer ${KEY}`)
  assert.equal(sent[0]?.get('user-agent'), null)
})

test('publint finds nothing', async () => {
  const { messages } = await publint({ pkgDir: root, pack: false, strict: true })
  assert.deepEqual(messages, [])
})

test('a folder outside the project works as npm links it, with its types', async (t) => {
  const path = mkdtempSync(join(tmpdir(), 'agentrouter-sdk-'))
  t.after(() => rmSync(path, { recursive: true }))
  const [sdk, app] = [join(path, 'sdk'), join(path, 'app')]
  cpSync(join(root, 'dist'), join(sdk, 'dist'), { recursive: true })
  const { scripts, workspaces, ...manifest } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Record<string, object>
  assert.ok(scripts && workspaces)
  writeFileSync(join(sdk, 'package.json'), JSON.stringify(manifest))
  mkdirSync(app)
  const name = '@tetrate/agentrouter-sdk'
  writeFileSync(join(app, 'package.json'), JSON.stringify({ private: true, dependencies: { [name]: 'file:../sdk' } }))
  const npm = (...more: string[]) => run('npm', ['install', '--offline', '--no-audit', '--no-fund', ...more], { cwd: app })
  await npm()
  const program = `import { Client, Secrets, tars_secret_v1_secret_pb as pb } from '${name}'
    import type { CreateSecretResponse, MessageInitShape } from '${name}'
    import { FakeServer } from '${name}/testing'
    const server = new FakeServer()
    server.put('r', 'n', 'it works')
    const client: Client = server.client()
    type Request = MessageInitShape<typeof pb.CreateSecretRequestSchema>
    export const create: (request: Request) => Promise<CreateSecretResponse> = (request) => client.secret.createSecret(request)
    // @ts-expect-error The compiler reports a field that does not exist.
    export const wrong = () => create({ nmae: 'n' })
    new Secrets(client).get('n', 'r').then((value) => console.log(value))`
  const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc')
  const options = ['--ignoreConfig', '--strict', '--target', 'es2022', '--module', 'nodenext', '--moduleResolution', 'nodenext']
  // A compilation writes the programs that Node then runs.
  for (const format of ['m', 'c']) writeFileSync(join(app, `index.${format}ts`), program)
  await run(process.execPath, [tsc, ...options, 'index.mts', 'index.cts'], { cwd: app }).catch((error: { stdout: string }) =>
    assert.fail(error.stdout),
  )
  // A later installation must not remove anything.
  await npm()
  for (const format of ['m', 'c']) {
    assert.equal((await run(process.execPath, [`index.${format}js`], { cwd: app })).stdout, 'it works\n')
  }
})

test('the packages in dist are those that npm installs', () => {
  const manifest = (path: string) => JSON.parse(readFileSync(join(root, path, 'package.json'), 'utf8')) as Record<string, any>
  for (const [name, version] of Object.entries(manifest('.')['dependencies'])) {
    assert.match(String(version), /^[0-9.]+$/, 'of one version, so that the types of both copies are the same')
    assert.equal(manifest(`dist/node_modules/${name}`)['version'], version)
    assert.equal(manifest(`node_modules/${name}`)['version'], version)
  }
})

test('the folder has what is needed to run, and its installation runs nothing', () => {
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Record<string, object>
  assert.equal(manifest['devDependencies'], undefined, 'npm would install them with a file: dependency')
  for (const script of ['preinstall', 'install', 'postinstall', 'prepare']) assert.ok(!(script in manifest['scripts']!))
  for (const path of ['dist/esm/index.js', 'dist/esm/index.d.ts', 'dist/cjs/index.js', 'dist/cjs/index.d.ts']) {
    assert.ok(existsSync(join(root, path)), path)
  }
  assert.doesNotMatch(readFileSync(join(root, 'package-lock.json'), 'utf8'), /https?:\/\/(?!opencollective|github|tidelift|bjornlu)/)
})
