// One CMake tree a purpose, under .cmake/: configured through cmake-js (which knows where Node-API's headers are) when its
// options changed, then built incrementally.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'
import { root, toolchain } from './native-options.mjs'

const cmakeJs = createRequire(import.meta.url).resolve('cmake-js/bin/cmake-js')

function cmake(...args) {
  const run = spawnSync(process.execPath, [cmakeJs, ...args], { cwd: root, stdio: 'inherit' })
  if (run.error) throw run.error
  if (run.status !== 0) process.exit(run.status ?? 1)
}

/** Parallel jobs: the processors, less where memory is short (one nvcc job can take 2 GiB), or SEQMIX_BUILD_JOBS. */
function jobs() {
  const asked = Number(process.env.SEQMIX_BUILD_JOBS)
  if (Number.isInteger(asked) && asked > 0) return asked
  return Math.max(1, Math.min(os.availableParallelism(), Math.floor(os.totalmem() / 2 ** 31)))
}

/**
 * Builds `target` in .cmake/`tree`.
 * @param {string} tree
 * @param {Record<string, string>} options CMake cache entries
 * @param {string} [target] all when left out
 */
export function build(tree, options, target) {
  const out = path.join(root, '.cmake', tree)
  const stamp = path.join(out, 'configured.json')
  const wanted = { root, toolchain: toolchain(), options }
  const had = existsSync(stamp) ? JSON.parse(readFileSync(stamp, 'utf8')) : {}
  const same = (key) => JSON.stringify(had[key]) === JSON.stringify(wanted[key])
  const common = ['--out', out, '--config', options.CMAKE_BUILD_TYPE ?? 'Release', '--log-level', 'warn']
  // CMake keeps what it found out about the compilers: another compiler, or a moved clone, needs a tree from nothing.
  if (!same('root') || !same('toolchain')) rmSync(out, { recursive: true, force: true })
  if (!existsSync(stamp) || !same('options')) {
    mkdirSync(out, { recursive: true })
    rmSync(stamp, { force: true })
    cmake('configure', ...common, ...Object.entries(options).map(([k, v]) => `--CD${k}=${v}`))
    writeFileSync(stamp, JSON.stringify(wanted))
  }
  cmake('build', ...common, '--parallel', String(jobs()), ...(target ? ['--target', target] : []))
  return out
}
