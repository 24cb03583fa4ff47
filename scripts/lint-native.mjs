// Looks at C++ beyond the compiler (whose warnings are errors in every build): the format, and cppcheck where it is installed.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { root } from './native-options.mjs'

function run(command, args) {
  const done = spawnSync(command, args, { cwd: root, stdio: 'inherit' })
  if (done.error) throw done.error
  return done.status === 0
}

let ok = run(process.execPath, [path.join(root, 'scripts', 'clang-format.mjs'), '--check'])
if (spawnSync('cppcheck', ['--version']).status === 0) {
  const args = ['--std=c++20', '--language=c++', '--enable=warning,performance', '--inline-suppr', '--quiet']
  args.push(
    '--error-exitcode=1',
    '--suppressions-list=.cppcheck-suppressions',
    '-j2',
    '-Inative',
    'native/core',
    'native/cpu',
  )
  args.push('native/binding')
  ok = run('cppcheck', args) && ok
} else {
  console.log('cppcheck is not installed: left out')
}
process.exit(ok ? 0 : 1)
