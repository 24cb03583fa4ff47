// Formats (--write) or checks (--check) every C++ and CUDA source in git's view of native/.
import { execFileSync, spawnSync } from 'node:child_process'
import { clangFormatPath } from 'clang-format-node'
import { root } from './native-options.mjs'

const listed = execFileSync('git', ['ls-files', '-co', '--exclude-standard', '--', 'native'], {
  cwd: root,
  encoding: 'utf8',
})
const files = listed.split('\n').filter((f) => /\.(c|cc|cpp|h|hpp|cu|cuh|inc)$/.test(f))
if (files.length === 0) process.exit(0)
const how = process.argv.includes('--write') ? ['-i'] : ['--dry-run', '--Werror']
const run = spawnSync(clangFormatPath, [...how, ...files], { cwd: root, stdio: 'inherit' })
if (run.error) throw run.error
process.exit(run.status ?? 1)
