// Sends DICOM files with dcmjs-dimse, one association each. Arguments: PORT CALLED_AE CALLING_AE FILE...
// Prints one JSON line per file: its path and the status that answered, or the reason it could not be sent.
// Before the package keeps them: its parser tells unknown elements on standard output, where the results go.
for (const name of ['log', 'info', 'warn', 'error']) console[name] = () => {}
const dcmjsDimse = require('dcmjs-dimse')
const { Client } = dcmjsDimse
const { CStoreRequest } = dcmjsDimse.requests
dcmjsDimse.log.level = 'error'

const [port, called, calling, ...files] = process.argv.slice(2)
let fail = () => {}
// It throws from its socket's events when it cannot encode a file: that file is not sent, the others are.
process.on('uncaughtException', (error) => fail(`thrown: ${error.message}`))

function send (path) {
  return new Promise((resolve) => {
    let status = null
    const done = (reason) => resolve({ path, status, reason })
    fail = done
    try {
      const request = new CStoreRequest(path)
      request.on('response', (response) => { status = response.getStatus() })
      const client = new Client()
      client.addRequest(request)
      client.on('networkError', (error) => done(String(error.message)))
      client.on('associationRejected', () => done('rejected'))
      client.on('closed', () => done(null))
      client.send('127.0.0.1', Number(port), calling, called)
    } catch (error) {
      done(String(error.message))
    }
  })
}

async function main () {
  for (const path of files) {
    process.stdout.write(JSON.stringify(await send(path)) + '\n')
  }
}
main().then(() => process.exit(0))
