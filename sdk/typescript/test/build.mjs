// Builds dist/: the same sources as ES modules and as CommonJS, each with its types.
import { execFileSync } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

process.chdir(fileURLToPath(new URL('..', import.meta.url)))
const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc')
const compile = (...args) => execFileSync(process.execPath, [tsc, '-p', '.', ...args], { stdio: 'inherit' })

rmSync('dist', { recursive: true, force: true })
compile('--outDir', 'dist/esm')
compile('--outDir', 'dist/cjs', '--module', 'commonjs')
// The nearest package.json decides how Node reads a file; the package's own says ES modules.
writeFileSync('dist/cjs/package.json', '{"type":"commonjs"}\n')
