import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

/** The addon's exports as they come, and where it was found: the CUDA library lies beside it. */
export interface LoadedAddon {
  exports: unknown
  /** The folder that holds the addon. */
  folder: string
  /** The addon's file. */
  file: string
  /** Where the CUDA library is when it was built or shipped: `seqmix_cuda.so` in the addon's folder. */
  cudaLibrary: string
}

interface NodeGypBuild {
  (dir: string): unknown
  resolve(dir: string): string
}

/** The package's root: the nearest folder above this file whose package.json is seqmix's (lib/ and dist/ lie at different depths from a bundle). */
function packageRoot(): string {
  const start = path.dirname(fileURLToPath(import.meta.url))
  for (let dir = start; ; dir = path.dirname(dir)) {
    const manifest = path.join(dir, 'package.json')
    if (existsSync(manifest)) {
      const { name } = JSON.parse(readFileSync(manifest, 'utf8')) as { name?: string }
      if (name === 'seqmix') return dir
    }
    if (dir === path.dirname(dir)) throw new Error(`seqmix: no package.json of seqmix above ${start}`)
  }
}

function libc(): string {
  if (process.platform !== 'linux') return ''
  const report = process.report?.getReport() as { header?: { glibcVersionRuntime?: string } } | undefined
  const version = report?.header?.glibcVersionRuntime
  return version ? `, glibc ${version}` : ', musl or another libc'
}

function explain(root: string, cause: unknown): string {
  const platform = `${process.platform}-${process.arch}`
  const places = [
    path.join(root, 'build', 'Release', 'seqmix.node'),
    path.join(root, 'build', 'Debug', 'seqmix.node'),
    path.join(root, 'prebuilds', platform, 'seqmix.node'),
  ]
  const tried = places.map((p) => `  ${p}: ${existsSync(p) ? 'is there, but did not load' : 'not there'}`)
  const reason = cause instanceof Error ? cause.message.split('\n')[0] : String(cause)
  return [
    `seqmix: the native addon could not be loaded on ${platform}${libc()}, Node ${process.version} (Node-API ${process.versions.napi}).`,
    `Tried:`,
    ...tried,
    `The loader said: ${reason}`,
    existsSync(path.join(root, 'CMakeLists.txt'))
      ? `This is a clone: run \`npm ci\` (or \`npm run build\`) in ${root}; it needs a C++20 compiler and CMake 3.22 or newer.`
      : `This package carries prebuilt binaries only. If ${platform} is not among the folders in ${path.join(root, 'prebuilds')}, ` +
        `build from source: clone the repository, run \`npm ci && npm run prebuilds && npm pack\` there and install the tarball.`,
  ].join('\n')
}

/**
 * Finds and loads the native addon: build/Release in a clone, prebuilds/ in an installed package.
 * @throws Error that says what was tried and what to do.
 */
export function loadAddon(): LoadedAddon {
  const require = createRequire(import.meta.url)
  const root = packageRoot()
  try {
    const nodeGypBuild = require('node-gyp-build') as NodeGypBuild
    const file = nodeGypBuild.resolve(root)
    const folder = path.dirname(file)
    return { exports: require(file) as unknown, folder, file, cudaLibrary: path.join(folder, 'seqmix_cuda.so') }
  } catch (cause) {
    throw new Error(explain(root, cause), { cause })
  }
}
