// Builds dist/: the same sources as ES modules and as CommonJS, each with its types, and the packages that they import.
//
// Those are in dist/node_modules, so that the folder works wherever it is: npm links a folder, and installs the dependencies
// of a linked folder only if it is inside the project.
import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

process.chdir(fileURLToPath(new URL('..', import.meta.url)))
const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc')
const compile = (...args) => execFileSync(process.execPath, [tsc, '-p', '.', ...args], { stdio: 'inherit' })

rmSync('dist', { recursive: true, force: true })
compile('--outDir', 'dist/esm')
compile('--outDir', 'dist/cjs', '--module', 'commonjs')
// The nearest package.json decides how Node reads a file; the package's own says ES modules.
writeFileSync('dist/cjs/package.json', '{"type":"commonjs"}\n')

const { dependencies } = JSON.parse(readFileSync('package.json', 'utf8'))
const copied = new Set()
for (const format of ['esm', 'cjs']) for (const file of files(join('dist', format))) copyImports(file, format)

/** Copies what a file imports from packages, and what that imports. */
function copyImports(file, format) {
  for (const [, specifier] of readFileSync(file, 'utf8').matchAll(/(?:\bfrom|\bimport|\brequire|\bimport\()\s*\(?\s*["']([^"']+)["']/g)) {
    if (specifier.startsWith('.')) {
      if (file.startsWith('node_modules')) copyFile(relative(file, specifier), format)
    } else {
      const [scope, name, ...path] = specifier.split('/')
      if (dependencies[`${scope}/${name}`] === undefined) continue
      const folder = join('node_modules', scope, name)
      const { exports } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
      // The main entry is always there: other programs look for it.
      for (const key of ['.', ['.', ...path].join('/')]) {
        const entry = exports[key][format === 'esm' ? 'import' : 'require'] ?? exports[key].default
        copyFile(join(folder, typeof entry === 'string' ? entry : entry.default), format)
      }
      copyFile(join(folder, 'package.json'), format)
    }
  }
}

/** Copies a file of a package and its types, once. */
function copyFile(file, format) {
  if (copied.has(file)) return
  copied.add(file)
  const target = join('dist', file)
  mkdirSync(dirname(target), { recursive: true })
  copyFileSync(file, target)
  if (!/\.[cm]?[jt]s$/.test(file)) return
  copyImports(file, format)
  const types = file.replace(/\.js$/, '.d.ts')
  if (types !== file && existsSync(types)) copyFile(types, format)
  // A folder of CommonJS files has a package.json of its own, which says that they are CommonJS.
  for (let folder = dirname(file); !existsSync(join(folder, 'README.md')); folder = dirname(folder)) {
    if (existsSync(join(folder, 'package.json'))) copyFile(join(folder, 'package.json'), format)
  }
}

function relative(file, specifier) {
  const path = join(dirname(file), specifier)
  return existsSync(path) && !existsSync(join(path, 'index.js')) ? path : existsSync(`${path}.js`) ? `${path}.js` : join(path, 'index.js')
}

/** The files of a folder that import: code and types. */
function files(folder) {
  return readdirSync(folder, { recursive: true })
    .map((path) => join(folder, path))
    .filter((path) => /\.[jt]s$/.test(path))
}
