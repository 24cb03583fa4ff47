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
export const stamp = path.join(products, 'stamp.json')
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

/**
 * What lies in build/Release was made from: `sources` is a hash of the sources of the addon and the CUDA library, `how` one
 * of the compilers and options. Tests look at `sources` alone, for they may run on a machine without the compilers.
 */
export function fingerprint() {
  return { sources: sourcesHash(), how: sha256([JSON.stringify([toolchain(), cudaOption()])]) }
}

export function sourcesHash() {
  const files = nativeSources().filter((file) => !/^native\/(cuda\/)?test\//.test(file))
  return sha256(files.flatMap((file) => [`\0${file}\0`, readFileSync(path.join(root, file))]))
}

function sha256(parts) {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part)
  return hash.digest('hex')
}

/** The fingerprint that was written when build/Release was last built, or null. */
export function built() {
  return existsSync(addon) && existsSync(stamp) ? JSON.parse(readFileSync(stamp, 'utf8')) : null
}
