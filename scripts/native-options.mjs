// What decides how the native side is built: options from the environment, and the fingerprint by which `prepare`
// knows whether what lies in build/Release is what these sources and options would give.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
export const products = path.join(root, 'build', 'Release')
export const addon = path.join(products, 'seqmix.node')
export const cudaLibrary = path.join(products, 'seqmix_cuda.so')

/** SEQMIX_CUDA=off leaves the CUDA library out, =on makes a missing nvcc an error, else it is built where nvcc is found. */
export function cudaOption() {
  const value = (process.env.SEQMIX_CUDA ?? 'auto').toLowerCase()
  if (['off', '0', 'false', 'no'].includes(value)) return 'OFF'
  if (['on', '1', 'true', 'yes'].includes(value)) return 'ON'
  if (value === 'auto' || value === '') return 'AUTO'
  throw new Error(`SEQMIX_CUDA: expected on, off or auto, got ${value}`)
}

function versionOf(command, args) {
  try {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  } catch {
    return 'none'
  }
}

/** The compilers and their flags: a change here cannot be seen by the build tool itself. */
export function toolchain() {
  const env = process.env
  return {
    arch: process.arch,
    cxx: versionOf(env.CXX || 'c++', ['--version']),
    nvcc: versionOf(env.CUDACXX || 'nvcc', ['--version']),
    flags: [env.CC, env.CXX, env.CXXFLAGS, env.CUDACXX, env.CUDAFLAGS, env.LDFLAGS].map((v) => v ?? ''),
  }
}

export function nativeSources() {
  const found = ['CMakeLists.txt']
  const walk = (dir) => {
    for (const entry of readdirSync(path.join(root, dir), { withFileTypes: true })) {
      const at = `${dir}/${entry.name}`
      if (entry.isDirectory()) walk(at)
      else if (/\.(c|cc|cpp|h|hpp|cu|cuh|inc|map)$/.test(entry.name)) found.push(at)
    }
  }
  if (existsSync(path.join(root, 'native'))) walk('native')
  return found.sort()
}

/** A hash of the sources that end in the addon and the CUDA library, and of how they are built. */
export function fingerprint() {
  const hash = createHash('sha256').update(JSON.stringify([toolchain(), cudaOption()]))
  for (const file of nativeSources().filter((f) => !f.startsWith('native/test/'))) {
    hash.update(`\0${file}\0`).update(readFileSync(path.join(root, file)))
  }
  return hash.digest('hex')
}
