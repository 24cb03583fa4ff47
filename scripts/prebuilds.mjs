// Makes prebuilds/<platform>-<arch>: the addon, stripped, and the CUDA library beside it. With --if-stale (before `npm pack`)
// only when they are missing or come from other sources.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { root, sourcesHash } from './native-options.mjs'

const folder = path.join(root, 'prebuilds', `${process.platform}-${process.arch}`)
const stamp = path.join(root, '.cmake', 'prebuilds.txt')

function current() {
  const there = existsSync(folder) && readdirSync(folder).some((name) => name.endsWith('.node'))
  return there && existsSync(stamp) && readFileSync(stamp, 'utf8') === sourcesHash()
}

function run(...args) {
  const done = spawnSync(process.execPath, args, { cwd: root, stdio: ['ignore', 2, 2] })
  if (done.error) throw done.error
  if (done.status !== 0) process.exit(done.status ?? 1)
}

if (!process.argv.includes('--if-stale') || !current()) {
  const from = createRequire(import.meta.url)
  rmSync(folder, { recursive: true, force: true })
  run(from.resolve('prebuildify/bin.js'), '--napi', '--strip', '--tag-libc')
  // prebuildify moves the addon out of build/Release: link it again.
  run(path.join(root, 'scripts', 'build-native.mjs'))
  mkdirSync(path.dirname(stamp), { recursive: true })
  writeFileSync(stamp, sourcesHash())
}
