// What a user gets: the tarball of `npm pack`, installed into an empty folder with scripts blocked and neither a compiler nor
// Python on the PATH, then imported, required, run from the command line and in worker threads, and type-checked against.
import { spawnSync, type SpawnSyncOptionsWithStringEncoding } from 'node:child_process'
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { addon, cudaLibrary, root } from '../scripts/native-options.mjs'

function onPath(command: string): string | undefined {
  const folders = (process.env.PATH ?? '').split(path.delimiter)
  return folders.map((folder) => path.join(folder, command)).find((file) => existsSync(file))
}

/** npm's and npx's own programs: a machine that has Node alone cannot run this test. */
function npmFolder(): string | undefined {
  const npm = onPath('npm')
  if (!npm) return undefined
  const folder = path.dirname(realpathSync(npm))
  return existsSync(path.join(folder, 'npm-cli.js')) ? folder : undefined
}

const npm = npmFolder()
const platform = `${process.platform}-${process.arch}`
const tarballs = /\.tgz$/

describe.skipIf(!npm)('the published package', { timeout: 120_000 }, () => {
  let work = ''
  let consumer = ''
  const environment: NodeJS.ProcessEnv = {}

  const options = (cwd: string): SpawnSyncOptionsWithStringEncoding => ({
    cwd,
    encoding: 'utf8',
    env: environment,
    stdio: ['ignore', 'pipe', 'pipe'],
  })

  function node(cwd: string, ...args: string[]): string {
    const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, options(cwd))
    if (status !== 0) throw new Error(`node ${args.join(' ')} ended with ${signal ?? status}\n${stdout}\n${stderr}`)
    return stdout
  }

  const runNpm = (cwd: string, ...args: string[]) => node(cwd, path.join(npm!, 'npm-cli.js'), ...args)

  /** Packs a folder and returns the tarball's name and the files in it. */
  function pack(folder: string): { file: string; files: string[] } {
    const args = ['pack', folder, '--json', '--ignore-scripts', '--pack-destination', work]
    const report: unknown = JSON.parse(runNpm(work, ...args))
    // One entry a package: in a list, or under the package's name in newer versions of npm.
    const [entry] = Object.values(report as Record<string, { filename: string; files: { path: string }[] }>)
    const name = path.basename(entry!.filename).replace('@', '').replaceAll('/', '-')
    expect(name).toMatch(tarballs)
    return { file: path.join(work, name), files: entry!.files.map((file) => file.path) }
  }

  function write(name: string, text: string): string {
    writeFileSync(path.join(consumer, name), text)
    return name
  }

  let packed: string[] = []

  beforeAll(() => {
    work = mkdtempSync(path.join(tmpdir(), 'seqmix-package-'))
    consumer = path.join(work, 'consumer')
    const bin = path.join(work, 'bin')
    const stage = path.join(work, 'stage')
    mkdirSync(consumer)
    mkdirSync(bin)
    symlinkSync(process.execPath, path.join(bin, 'node'))
    symlinkSync(realpathSync(onPath('sh')!), path.join(bin, 'sh'))
    // Nothing of this process's npm settings, of a developer's SEQMIX_ variables, or of the PATH is seen by the consumer.
    for (const name of ['HOME', 'SEQMIX_DEVICE', 'TMPDIR', 'LANG', 'CUDA_VISIBLE_DEVICES', 'LD_LIBRARY_PATH']) {
      if (process.env[name] !== undefined) environment[name] = process.env[name]
    }
    environment.PATH = bin
    environment.npm_config_cache = path.join(work, 'cache')
    environment.npm_config_update_notifier = 'false'

    // The folder that is packed: lib/ as it is now, and the built addon where prebuildify puts it.
    const compiled = path.join(stage, 'dist')
    node(root, 'scripts/build-lib.mjs', '--out', compiled)
    const prebuilds = path.join(stage, 'prebuilds', platform)
    mkdirSync(prebuilds, { recursive: true })
    copyFileSync(addon, path.join(prebuilds, 'seqmix.node'))
    if (existsSync(cudaLibrary)) copyFileSync(cudaLibrary, path.join(prebuilds, 'seqmix_cuda.so'))
    for (const name of ['package.json', 'README.md', 'LICENSE', 'binding.gyp', 'CMakeLists.txt', 'scripts', 'native']) {
      cpSync(path.join(root, name), path.join(stage, name), { recursive: true })
    }
    const seqmix = pack(stage)
    packed = seqmix.files

    // The dependencies come from node_modules, so that nothing needs a network.
    const manifest = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as {
      dependencies: Record<string, string>
    }
    const dependencies: Record<string, string> = { seqmix: `file:${seqmix.file}` }
    for (const name of Object.keys(manifest.dependencies)) {
      dependencies[name] = `file:${pack(path.join(root, 'node_modules', name)).file}`
    }
    write('package.json', JSON.stringify({ name: 'consumer', version: '1.0.0', private: true, dependencies }))
    runNpm(consumer, 'install', '--offline', '--ignore-scripts', '--no-audit', '--no-fund')
  }, 300_000)

  afterAll(() => {
    if (work) rmSync(work, { recursive: true, force: true })
  })

  it('has compiled code, prebuilds and papers, and nothing that npm would run or compile', () => {
    const rooms = new Set(packed.map((file) => file.split('/')[0]))
    expect([...rooms].sort()).toEqual(['LICENSE', 'README.md', 'dist', 'package.json', 'prebuilds'])
    for (const entry of ['index', 'layers/index', 'models/index', 'checkpoint/index']) {
      expect(packed).toContain(`dist/${entry}.js`)
      expect(packed).toContain(`dist/${entry}.d.ts`)
      expect(packed).toContain(`dist/${entry}.d.cts`)
    }
    const installed = path.join(consumer, 'node_modules', 'seqmix')
    const { scripts = {} } = JSON.parse(readFileSync(path.join(installed, 'package.json'), 'utf8')) as {
      scripts?: Record<string, string>
    }
    for (const name of ['preinstall', 'install', 'postinstall', 'prebuild']) expect(scripts).not.toHaveProperty(name)
    expect(existsSync(path.join(installed, 'binding.gyp'))).toBe(false)
  })

  const run = `
    const sum = m.add(m.tensor([1, 2, 3]), m.tensor([10, 20, 30]))
    const scan = m.selectiveScan(
      m.tensor([1, 2], { shape: [1, 1, 2] }), m.tensor([1, 1], { shape: [1, 1, 2] }), m.tensor([[0]]),
      m.tensor([[1]]), m.tensor([[1]]))
    const result = JSON.stringify([[...sum.dataSync()], [...scan.dataSync()]])
    if (result !== '[[11,22,33],[1,3]]') throw new Error(result)
  `

  it('imports, runs an op, and finds its addon among the prebuilds', () => {
    const text = `import * as m from 'seqmix'
      import 'seqmix/layers'; import 'seqmix/models'; import 'seqmix/checkpoint'
      ${run}
      const { loadAddon } = await import('./node_modules/seqmix/dist/loader.js')
      console.log(loadAddon().file)`
    expect(node(consumer, write('run.mjs', text)).trim()).toMatch(
      new RegExp(`node_modules/seqmix/prebuilds/${platform}/seqmix\\.node$`),
    )
  })

  it('is required from CommonJS', () => {
    const text = `const m = require('seqmix')
      require('seqmix/layers'); require('seqmix/models'); require('seqmix/checkpoint')
      ${run}`
    node(consumer, '--disable-warning=ExperimentalWarning', write('run.cjs', text))
  })

  it('loads in worker threads, several at once and again after they ended', () => {
    write('worker.mjs', `import * as m from 'seqmix'\n${run}`)
    const text = `import { once } from 'node:events'
      import { Worker } from 'node:worker_threads'
      for (let round = 0; round < 2; round++) {
        const workers = Array.from({ length: 3 }, () => new Worker(new URL('./worker.mjs', import.meta.url)))
        const codes = await Promise.all(workers.map(async (worker) => (await once(worker, 'exit'))[0]))
        if (codes.some((code) => code !== 0)) throw new Error('a worker ended with ' + codes)
      }`
    node(consumer, write('threads.mjs', text))
  })

  it('answers `npx seqmix info`', () => {
    const said = node(consumer, path.join(npm!, 'npx-cli.js'), '--offline', '--no', 'seqmix', 'info')
    expect(said).toMatch(/cpu/i)
  })

  it('says what was searched and what to do when the addon is not there', () => {
    const hidden = path.join(consumer, 'node_modules', 'bare')
    cpSync(path.join(consumer, 'node_modules', 'seqmix'), hidden, { recursive: true })
    rmSync(path.join(hidden, 'prebuilds'), { recursive: true })
    mkdirSync(path.join(hidden, 'prebuilds', 'plan9-mips'), { recursive: true })
    const text = `import { loadAddon } from './node_modules/bare/dist/loader.js'
      try { loadAddon(); console.log('loaded') } catch (error) { console.log(error.message) }`
    const said = node(consumer, write('bare.mjs', text))
    for (const part of [platform, process.version, 'not there', 'plan9-mips', 'npm run prebuilds']) {
      expect(said).toContain(part)
    }
  })

  const uses = `
    const a: seqmix.Tensor = seqmix.tensor([1, 2, 3])
    const sum: seqmix.Tensor = seqmix.add(a, [1, 2, 3])
    const type: seqmix.DType = sum.dtype
    export async function main(): Promise<number> {
      const data = await sum.toFloat32()
      sum.dispose()
      return data.length + type.length + seqmix.devices().length
    }
    export const bad = (): boolean => {
      try {
        // @ts-expect-error a tensor is not a string
        seqmix.add('a', a)
      } catch (error) {
        return error instanceof seqmix.SeqmixError && error.code.length > 0
      }
      return false
    }
    export const entries = [layers, models, checkpoint].map((entry) => Object.keys(entry))
  `
  const imports = (style: 'import' | 'require') =>
    ['seqmix', 'layers', 'models', 'checkpoint']
      .map((name) => {
        const from = name === 'seqmix' ? "'seqmix'" : `'seqmix/${name}'`
        return style === 'import' ? `import * as ${name} from ${from}` : `import ${name} = require(${from})`
      })
      .join('\n')

  function typecheck(name: string, compilerOptions: object, files: string[]) {
    // Nothing but the ES2022 library: no types of Node, no DOM, and declarations are checked too.
    const all = { strict: true, noEmit: true, target: 'ES2022', lib: ['ES2022'], types: [], skipLibCheck: false }
    write(name, JSON.stringify({ compilerOptions: { ...all, ...compilerOptions }, files }))
    node(consumer, path.join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', name)
  }

  it('type-checks from CommonJS and ES modules under node16 resolution, on an ES2022 library', () => {
    const files = [write('use.cts', imports('require') + uses), write('use.mts', imports('import') + uses)]
    typecheck('tsconfig.node16.json', { module: 'node16', moduleResolution: 'node16' }, files)
  })

  it('type-checks under bundler resolution', () => {
    const files = [write('use.ts', imports('import') + uses)]
    typecheck('tsconfig.bundler.json', { module: 'es2022', moduleResolution: 'bundler' }, files)
  })
})
