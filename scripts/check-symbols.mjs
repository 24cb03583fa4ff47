// An inline function that two translation units share is emitted in both, and the linker keeps one of the copies: kept from
// a unit compiled for AVX-512, it is an illegal instruction on an older machine. So the objects of native/cpu/targets may
// define nothing the linker could merge or another unit could use, except in their own namespace seqmix::cpu::<target>, and
// the one function that hands out the table, seqmix::cpu::<target>_target().
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { addon, cudaLibrary, root } from './native-options.mjs'

function objects(dir) {
  const found = []
  for (const entry of readdirSync(dir, { withFileTypes: true, recursive: true })) {
    const at = path.join(entry.parentPath ?? entry.path, entry.name)
    if (/native\/cpu\/targets\/[a-z0-9_]+\.cpp\.o$/.test(at) && at.includes('seqmix_cpu.dir')) found.push(at)
  }
  return found
}

const tree = path.join(root, '.cmake', 'release')
const files = existsSync(tree) ? objects(tree) : []
if (files.length === 0) {
  console.error(`${tree}: no objects of native/cpu/targets; run \`npm run build:native\` first`)
  process.exit(1)
}

let bad = 0
for (const file of files) {
  const target = path.basename(file, '.cpp.o')
  // e.g. _ZN6seqmix3cpu6avx512..., with const, template and guard prefixes such as _ZNK, _ZGVZN, _ZTVN
  const own = new RegExp(`^_Z(GV|GR|TV|TI|TS|TT)?Z*NK?6seqmix3cpu${target.length}${target}`)
  const table = `${target}_target`
  const symbols = execFileSync('nm', ['--defined-only', '--format=posix', file], {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  })
  let defined = 0
  for (const line of symbols.split('\n')) {
    const [name, kind] = line.split(' ')
    // Local symbols are lower case, but u (unique), v and w (weak) bind across units too. DW.ref names a personality routine: data.
    if (!name || !/[A-Zuvw]/.test(kind) || name.startsWith('DW.ref.')) continue
    defined++
    if (own.test(name) || (kind === 'T' && name === `_ZN6seqmix3cpu${table.length}${table}Ev`)) continue
    bad++
    const readable = execFileSync('c++filt', [name], { encoding: 'utf8' }).trim()
    console.error(`${target}.cpp: ${kind} ${readable} is outside of seqmix::cpu::${target}`)
  }
  console.log(`${target}.cpp: ${defined} symbols the linker sees`)
}
if (bad) console.error(`${bad} symbols of native/cpu/targets could be shared between instruction sets`)

// The libraries show their entry points and nothing else (another addon's or Node's own libstdc++ could otherwise take the
// place of our functions), and are never unloaded from under a thread that still runs.
const shown = {
  [addon]: ['napi_register_module_v1', 'node_api_module_get_api_version_v1'],
  [cudaLibrary]: ['seqmix_cuda_backend'],
}
for (const [file, expected] of Object.entries(shown)) {
  if (!existsSync(file)) continue
  const listed = execFileSync('nm', ['-D', '--defined-only', '--format=posix', file], { encoding: 'utf8' })
  const names = listed.split('\n').flatMap((line) => (line ? [line.split(' ')[0].split('@')[0]] : []))
  if (names.sort().join() !== expected.join()) {
    bad++
    console.error(`${file} shows ${names.join(', ')}; expected ${expected.join(', ')}`)
  }
  if (!/NODELETE/.test(execFileSync('readelf', ['-d', file], { encoding: 'utf8' }))) {
    bad++
    console.error(`${file} is not linked with -z nodelete`)
  }
  console.log(`${path.basename(file)}: ${names.length} symbols shown`)
}
process.exit(bad ? 1 : 0)
