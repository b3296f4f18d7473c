// The MLLP server of simple-hl7: writes each message to a file and accepts it. Arguments: PORT FILE.
const fs = require('node:fs')
const hl7 = require('simple-hl7')

const [port, file] = process.argv.slice(2)
const app = hl7.tcp()
app.use((request, response, next) => {
  fs.appendFileSync(file, JSON.stringify(request.msg.toString()) + '\n')
  next()
})
app.use((request, response, next) => response.end())
app.start(Number(port))
process.on('SIGTERM', () => process.exit(0))
