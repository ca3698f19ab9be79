/**
 * Runs the documented examples as a newcomer would, in a clean folder: with the request as it stands there, empty, and
 * filled in.
 *
 * AGENTROUTER_REFERENCE is the page with the examples, AGENTROUTER_TARBALL the SDK's tarball (default: downloaded from
 * the server), AGENTROUTER_BASE_URL the server and AGENTROUTER_KEY_ADMIN a key with all scopes, as `sdk/cases/with-server`
 * sets them. npm gets the rest from its registry.
 */

import assert from 'node:assert/strict'
import { execFile, type ExecFileException } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { promisify } from 'node:util'

const STEM = 'agentrouter-typescript-0.1.1'

/** The requests that fill the examples, in the order in which they run, and what is then printed. */
const FILLED: [slug: string, request: string, printed: RegExp][] = [
  ['create-secret', `{ name: 'example', realm: 'mcp', value: 'first-value', tags: { env: 'prod' } }`, /version: 1\b/],
  ['get-secret', `{ name: 'example', realm: 'mcp' }`, /name: 'example'/],
  ['list-secrets', `{ realm: 'mcp' }`, /name: 'example'/],
  ['rotate-secret', `{ name: 'example', realm: 'mcp', newValue: 'second-value' }`, /version: 2\b/],
  ['validate-secret', `{ name: 'example', realm: 'mcp' }`, /valid: true/],
  ['get-secret-value', `{ name: 'example', realm: 'mcp' }`, /value: 'second-value'/],
  ['delete-secret', `{ name: 'example', realm: 'mcp' }`, /success: true/],
]

interface File {
  name: string
  content: string
}

const server = needed('AGENTROUTER_BASE_URL')
const examples = readExamples(needed('AGENTROUTER_REFERENCE'))
const folder = mkdtempSync(join(tmpdir(), 'agentrouter-example-'))
const env = {
  ...process.env,
  AGENTROUTER_BASE_URL: server,
  AGENTROUTER_API_KEY: needed('AGENTROUTER_KEY_ADMIN'),
  // `npx tsx` asks before it fetches what is not there.
  npm_config_yes: 'true',
}

before(async () => {
  const tarball = join(folder, 'sdk.tar.gz')
  if (process.env['AGENTROUTER_TARBALL']) copyFileSync(process.env['AGENTROUTER_TARBALL'], tarball)
  else writeFileSync(tarball, await download(`${server}/sdk/${STEM}.tar.gz`))
  mkdirSync(join(folder, 'third_party'))
  await run('tar', 'xzf', tarball, '-C', 'third_party')
  write(examples.values().next().value ?? [])
  const { code, stderr } = await run('npm', 'install', '--no-audit', '--no-fund')
  assert.equal(code, 0, stderr)
})
after(() => rmSync(folder, { recursive: true }))

test('every call has its example', () => {
  assert.deepEqual([...examples.keys()].sort(), FILLED.map(([slug]) => slug).sort())
})

for (const [slug, files] of examples) {
  test(`${slug}, as it stands, is told what is missing`, async () => {
    write(files)
    const { code, stdout, stderr } = await run('npx', 'tsx', 'index.ts')
    assert.equal(code, 0, stderr)
    if (slug === 'list-secrets') assert.match(stdout, /secrets: \[/)
    else assert.match(stderr, /INVALID_REQUEST/)
  })
}

for (const [slug, request, printed] of FILLED) {
  test(`${slug}, filled in, gets its answer`, async () => {
    write(examples.get(slug) ?? [], request)
    const types = await run('npx', 'tsc', '--noEmit', '-p', '.')
    assert.equal(types.code, 0, types.stdout)
    const { code, stdout, stderr } = await run('npx', 'tsx', 'index.ts')
    assert.equal(code, 0, stderr)
    assert.match(stdout, printed, stderr)
  })
}

/** The files of each TypeScript example, by the page's name for the call. */
function readExamples(path: string): Map<string, File[]> {
  const lines = readFileSync(path, 'utf8').split('\n').filter((line) => line.startsWith('{'))
  return new Map(
    lines.map((line) => {
      const { slug, examples } = JSON.parse(line) as { slug: string; examples: { typescript: { files: File[] } } }
      return [slug, examples.typescript.files]
    }),
  )
}

function write(files: File[], request?: string): void {
  assert.ok(files.length > 0)
  for (const { name, content } of files) {
    const text = request && name === 'index.ts' ? content.replace('const req = {}', `const req = ${request}`) : content
    assert.ok(!request || name !== 'index.ts' || text !== content, 'the example has no request to fill in')
    writeFileSync(join(folder, name), text)
  }
}

async function run(program: string, ...args: string[]): Promise<{ code: unknown; stdout: string; stderr: string }> {
  try {
    return { code: 0, ...(await promisify(execFile)(program, args, { cwd: folder, env })) }
  } catch (error) {
    const { code, stdout = '', stderr = '' } = error as ExecFileException
    return { code, stdout, stderr: stderr || String(error) }
  }
}

async function download(url: string): Promise<Buffer> {
  const response = await fetch(url)
  assert.ok(response.ok, `${url}: ${response.status}`)
  return Buffer.from(await response.arrayBuffer())
}

function needed(name: string): string {
  const value = process.env[name]
  if (!value) throw new Error(`${name} is not set`)
  return value
}
