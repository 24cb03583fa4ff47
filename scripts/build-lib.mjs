// Compiles lib/ to dist/ from nothing (so that no file of a deleted source stays), with declarations for ES modules and for
// CommonJS under node16 resolution.
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { root } from './native-options.mjs'
import { writeCommonJsTypes } from './commonjs-types.mjs'

// --out DIR compiles elsewhere.
const at = process.argv.indexOf('--out')
const dist = at < 0 ? path.join(root, 'dist') : path.resolve(process.argv[at + 1])
rmSync(dist, { recursive: true, force: true })
const tsc = path.join(path.dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin', 'tsc')
const run = spawnSync(process.execPath, [tsc, '-p', 'tsconfig.build.json', '--outDir', dist], {
  cwd: root,
  stdio: 'inherit',
})
if (run.status !== 0) process.exit(run.status ?? 1)
for (const entry of ['index', 'layers/index', 'models/index', 'checkpoint/index']) {
  const types = path.join(dist, `${entry}.d.ts`)
  if (existsSync(types)) writeCommonJsTypes(types)
}
const cli = path.join(dist, 'cli', 'main.js')
if (existsSync(cli)) chmodSync(cli, 0o755)
