import { existsSync, readdirSync, readFileSync } from 'node:fs'
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
  const report = process.report as (NodeJS.ProcessReport & { excludeNetwork?: boolean }) | undefined
  if (!report) return ''
  report.excludeNetwork = true // the report would otherwise look up host names
  const { header } = report.getReport() as { header?: { glibcVersionRuntime?: string } }
  return header?.glibcVersionRuntime ? `, glibc ${header.glibcVersionRuntime}` : ', musl or another libc'
}

/** What lies in one of the folders that are searched, in words. */
function contents(folder: string): string {
  if (!existsSync(folder)) return `${folder}: not there`
  const files = readdirSync(folder).filter((name) => name.endsWith('.node'))
  return `${folder}: ${files.length ? `has ${files.join(', ')}` : 'has no .node file'}`
}

function explain(root: string, cause: unknown): string {
  const platform = `${process.platform}-${process.arch}`
  const shipped = path.join(root, 'prebuilds')
  const places = [path.join(root, 'build', 'Release'), path.join(shipped, platform)]
  const others = existsSync(shipped) ? readdirSync(shipped).filter((name) => name !== platform) : []
  const reason = cause instanceof Error ? cause.message.split('\n')[0] : String(cause)
  const todo = existsSync(path.join(root, 'CMakeLists.txt'))
    ? `This is a clone: run \`npm run build:native\` in ${root}. It needs a C++20 compiler and CMake 3.22 or newer.`
    : 'An installed seqmix has prebuilt binaries only. To run it here, build it where it shall run: in a clone of its ' +
      'repository `npm ci && npm run prebuilds && npm pack`, then install the tarball.'
  return [
    `seqmix: the native addon could not be loaded on ${platform}${libc()}, Node ${process.version}, ` +
      `Node-API ${process.versions.napi ?? 'unknown'} (it needs 9).`,
    'Searched:',
    ...places.map((place) => `  ${contents(place)}`),
    ...(others.length ? [`  ${shipped} is for ${others.join(', ')} too`] : []),
    `The loader said: ${reason}`,
    todo,
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
